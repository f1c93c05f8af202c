# DToP on the deeply supervised model's own checkpoint: exits after blocks 5 and 8, threshold 0.99, k = 30, weighed.
_base_ = '../baselines/dinov2-s14_fcn-deep_camvid-672x504.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(
        reducer=dict(type='mmtoken.DToP', exits=(5, 8), threshold=0.99, keep_per_class=30, proportional=True)
    ),
)
