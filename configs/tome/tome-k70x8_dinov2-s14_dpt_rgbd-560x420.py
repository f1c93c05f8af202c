# ToMe merges down to 70 % of the tokens in the first eight blocks.
_base_ = '../baselines/dinov2-s14_dpt_rgbd-560x420.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.7, layers=list(range(8)))))
