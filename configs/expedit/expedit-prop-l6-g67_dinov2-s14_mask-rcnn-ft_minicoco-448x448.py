# Expedit clusters before block 6, 67 % of each side; keys weighed by token size.
_base_ = '../baselines/dinov2-s14_mask-rcnn-ft_minicoco-448x448.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.67, proportional=True)))
