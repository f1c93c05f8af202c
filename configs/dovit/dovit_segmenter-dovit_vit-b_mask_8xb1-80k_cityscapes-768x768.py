# DoViT: tokens may leave before blocks 2, 5 and 8; the auxiliary heads decide.
_base_ = '../baselines/segmenter-dovit_vit-b_mask_8xb1-80k_cityscapes-768x768.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.DoViT', threshold=0.985, anneal_iters=70000, aggregate=0.1)),
)
