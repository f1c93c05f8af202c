# ToMe: merges down to 24 % of the 6720 tokens, in the first eight blocks.
_base_ = '../baselines/dinov2-s14_subpatch_drive-1120x1176.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.24, layers=list(range(8)))))
