# Expedit before block 10 of 24, 0.7 of each side: the paper's Segmenter setting (28x28 of 40x40).
_base_ = 'mmseg::segmenter/segmenter_vit-l_mask_8xb1-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(type='mmtoken.TokenVisionTransformer', reducer=dict(type='mmtoken.Expedit', layer=10, grid=0.7))
)
