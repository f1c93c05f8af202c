# Expedit: 768 of 1728 tokens from block 6 on, keys weighed by token size.
_base_ = '../baselines/dinov2-s14_segmenter_1k_camvid-672x504.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=2 / 3, proportional=True)))
