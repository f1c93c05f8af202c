# ToMe: merges down to 24 % of the 930 tokens, in the first eight blocks.
_base_ = '../baselines/dinov2-s14_subpatch-ft_drive-420x434.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.24, layers=list(range(8)))))
