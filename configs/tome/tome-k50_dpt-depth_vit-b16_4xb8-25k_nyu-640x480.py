# ToMe down to half of the tokens.
_base_ = '../baselines/dpt-depth_vit-b16_4xb8-25k_nyu-640x480.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.5)))
