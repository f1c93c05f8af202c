# DoViT: tokens may leave before blocks 6, 12 and 18; the auxiliary heads decide.
_base_ = '../baselines/segmenter-dovit_vit-l_mask_8xb1-160k_ade20k-640x640.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.DoViT', threshold=0.96, low=0.02, anneal_iters=140000, aggregate=0.1)),
)
