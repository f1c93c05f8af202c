# ToMe down to half of the tokens.
_base_ = 'mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'
model = dict(backbone=dict(type='mmtoken.TokenBEiT', reducer=dict(type='mmtoken.ToMe', keep=0.5)))
