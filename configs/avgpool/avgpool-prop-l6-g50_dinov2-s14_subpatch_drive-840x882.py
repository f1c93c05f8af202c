# Average pooling: 960 of 3780 tokens from block 6 on, keys weighed by token size.
_base_ = '../baselines/dinov2-s14_subpatch_drive-840x882.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.AvgPool', layer=6, grid=0.5, proportional=True)))
