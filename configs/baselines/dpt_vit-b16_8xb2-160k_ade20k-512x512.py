# Dense twin: mmseg's own config with fused attention.
_base_ = 'mmseg::dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py'
model = dict(backbone=dict(type='mmtoken.TokenVisionTransformer'))
