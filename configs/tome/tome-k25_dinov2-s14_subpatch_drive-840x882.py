# ToMe: merges down to 25 % of the 3780 tokens, in every block.
_base_ = '../baselines/dinov2-s14_subpatch_drive-840x882.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.25)))
