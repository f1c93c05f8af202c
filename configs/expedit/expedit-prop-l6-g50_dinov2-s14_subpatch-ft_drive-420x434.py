# Expedit: a quarter of the 930 tokens from block 6 on, keys weighed by token size.
_base_ = '../baselines/dinov2-s14_subpatch-ft_drive-420x434.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.5, proportional=True)))
