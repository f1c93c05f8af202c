# ToMe down to half of the tokens.
_base_ = 'mmseg::mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py'
model = dict(backbone=dict(type='mmtoken.TokenMAE', reducer=dict(type='mmtoken.ToMe', keep=0.5)))
