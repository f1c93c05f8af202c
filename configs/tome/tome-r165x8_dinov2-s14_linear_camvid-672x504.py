# ToMe: 165 of 1728 tokens merged in each of the first eight blocks.
_base_ = '../baselines/dinov2-s14_linear_2k_camvid-672x504.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', r=165, layers=list(range(8)))))
