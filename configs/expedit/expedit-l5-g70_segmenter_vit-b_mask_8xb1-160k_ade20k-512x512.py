# Expedit before block 5 of 12, 0.7 of each side: the share that the paper takes for Segmenter ViT-L.
_base_ = 'mmseg::segmenter/segmenter_vit-b_mask_8xb1-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(type='mmtoken.TokenVisionTransformer', reducer=dict(type='mmtoken.Expedit', layer=5, grid=0.7))
)
