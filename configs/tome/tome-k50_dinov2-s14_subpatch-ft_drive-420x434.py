# ToMe: half of the 930 tokens left after twelve blocks.
_base_ = '../baselines/dinov2-s14_subpatch-ft_drive-420x434.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.5)))
