# ToMe: 150 of 1728 tokens merged in each of the first eight blocks.
_base_ = '../baselines/dinov2-s14_segmenter_1k_camvid-672x504.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', r=150, layers=list(range(8)))))
