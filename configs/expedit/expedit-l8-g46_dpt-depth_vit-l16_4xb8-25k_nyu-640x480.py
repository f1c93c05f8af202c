# Expedit before block 8 of 24: 252 of 1200 tokens.
_base_ = '../baselines/dpt-depth_vit-l16_4xb8-25k_nyu-640x480.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=8, grid=0.46)))
