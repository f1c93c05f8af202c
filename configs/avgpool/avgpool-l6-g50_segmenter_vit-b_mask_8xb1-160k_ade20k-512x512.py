# Average pooling 2x2 before block 6 of 12.
_base_ = 'mmseg::segmenter/segmenter_vit-b_mask_8xb1-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(type='mmtoken.TokenVisionTransformer', reducer=dict(type='mmtoken.AvgPool', layer=6, grid=0.5))
)
