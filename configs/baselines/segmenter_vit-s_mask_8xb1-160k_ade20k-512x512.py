# Dense twin: mmseg's own config with fused attention.
_base_ = 'mmseg::segmenter/segmenter_vit-s_mask_8xb1-160k_ade20k-512x512.py'
model = dict(backbone=dict(type='mmtoken.TokenVisionTransformer'))
