# Expedit: 625 of 1024 tokens from block 6 on, keys weighed by token size.
_base_ = '../baselines/dinov2-s14_focus_minicoco-448x448.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.8, proportional=True)))
