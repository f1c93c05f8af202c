# Dense twin: mmseg's own config with fused attention.
_base_ = 'mmseg::setr/setr_vit-l_mla_8xb2-160k_ade20k-512x512.py'
model = dict(backbone=dict(type='mmtoken.TokenVisionTransformer'))
