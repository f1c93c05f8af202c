# DoViT: tokens may leave before blocks 2, 5 and 8; the auxiliary heads decide.
_base_ = '../baselines/setr-dovit_vit-b_naive_8xb2-160k_ade20k-512x512.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.DoViT', threshold=(0.96, 0.955, 0.95), aggregate=0.1)),
)
