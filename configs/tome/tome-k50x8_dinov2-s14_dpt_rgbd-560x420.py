# ToMe merges down to 50 % of the tokens in the first eight blocks.
_base_ = '../baselines/dinov2-s14_dpt_rgbd-560x420.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.5, layers=list(range(8)))))
