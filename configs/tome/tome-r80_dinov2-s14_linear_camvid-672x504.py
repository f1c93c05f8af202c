# ToMe: 80 of 1728 tokens merged in every block.
_base_ = '../baselines/dinov2-s14_linear_2k_camvid-672x504.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', r=80)))
