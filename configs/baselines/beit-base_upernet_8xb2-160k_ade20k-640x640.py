# Dense twin: mmseg's own config with fused attention.
_base_ = 'mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'
model = dict(backbone=dict(type='mmtoken.TokenBEiT'))
