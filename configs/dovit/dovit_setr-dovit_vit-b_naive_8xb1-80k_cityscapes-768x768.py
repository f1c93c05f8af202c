# DoViT: tokens may leave before blocks 2, 5 and 8; the auxiliary heads decide.
_base_ = '../baselines/setr-dovit_vit-b_naive_8xb1-80k_cityscapes-768x768.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.DoViT', threshold=0.985, aggregate=0.1)),
)
