# Expedit: 638 of 1728 tokens from block 6 on, keys weighed by token size.
_base_ = '../baselines/dinov2-s14_linear_2k_camvid-672x504.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.6, proportional=True)))
