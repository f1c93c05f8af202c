# ToMe: merges down to 24 % of the 3780 tokens, in the first eight blocks.
_base_ = '../baselines/dinov2-s14_subpatch_drive-840x882.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.24, layers=list(range(8)))))
