# ToMe down to half of the tokens.
_base_ = '../baselines/dinov3-b16_linear_8xb2-40k_ade20k-512x512.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.5)))
