# Expedit: 768 of 1728 tokens from block 4 on, keys weighed by token size.
_base_ = '../baselines/dinov2-s14_linear_2k_camvid-672x504.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=4, grid=2 / 3, proportional=True)))
