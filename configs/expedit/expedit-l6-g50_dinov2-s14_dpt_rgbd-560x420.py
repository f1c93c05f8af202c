# Expedit: 300 of 1200 tokens from block 6 on.
_base_ = '../baselines/dinov2-s14_dpt_rgbd-560x420.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.5)))
