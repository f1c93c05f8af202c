# Expedit before block 4 of 12: 407 of 1672 tokens, about as in the published row of DPT-Hybrid (20x20).
_base_ = '../baselines/dpt-depth_vit-b16_4xb8-25k_kitti-1216x352.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=4, grid=0.49)))
