# Expedit before block 6 of 12: 588 of 1200 tokens, about as in the published row of DPT-Hybrid (24x24).
_base_ = '../baselines/dpt-depth_vit-b16_4xb8-25k_nyu-640x480.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.69)))
