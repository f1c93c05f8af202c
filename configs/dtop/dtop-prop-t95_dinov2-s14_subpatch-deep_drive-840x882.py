# DToP on the dense model's own checkpoint: exits after blocks 5 and 8, threshold 0.95, k = 30, weighed.
_base_ = '../baselines/dinov2-s14_subpatch-deep_drive-840x882.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(
        reducer=dict(type='mmtoken.DToP', exits=(5, 8), threshold=0.95, keep_per_class=30, proportional=True)
    ),
)
