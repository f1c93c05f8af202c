# Dense twin: mmseg's own config with fused attention.
_base_ = 'mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
model = dict(backbone=dict(type='mmtoken.TokenMAE'))
