# ToMe: 50 of 1728 tokens merged in every block.
_base_ = '../baselines/dinov2-s14_segmenter_1k_camvid-672x504.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', r=50)))
