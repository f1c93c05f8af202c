# Average pooling before block 4 of 12: a quarter of the tokens.
_base_ = '../baselines/dpt-depth_vit-b16_4xb8-25k_nyu-640x480.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.AvgPool', layer=4, grid=0.5)))
