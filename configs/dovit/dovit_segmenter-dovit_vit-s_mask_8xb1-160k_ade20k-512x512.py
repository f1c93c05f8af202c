# DoViT: tokens may leave before blocks 2, 5 and 8; the auxiliary heads decide.
_base_ = '../baselines/segmenter-dovit_vit-s_mask_8xb1-160k_ade20k-512x512.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.DoViT', threshold=0.96, low=0.02, anneal_iters=140000, aggregate=0.1)),
)
