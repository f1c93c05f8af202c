# DoViT: tokens may leave before blocks 6, 12 and 18; the auxiliary heads decide.
_base_ = '../baselines/segmenter-dovit_vit-l_mask_8xb1-80k_cityscapes-768x768.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.DoViT', threshold=0.985, anneal_iters=70000, aggregate=0.1)),
)
