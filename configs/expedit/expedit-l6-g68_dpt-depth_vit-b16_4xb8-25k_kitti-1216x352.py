# Expedit before block 6 of 12: 780 of 1672 tokens, about as in the published row of DPT-Hybrid (28x28).
_base_ = '../baselines/dpt-depth_vit-b16_4xb8-25k_kitti-1216x352.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.68)))
