# DToP on the deeply supervised model's own checkpoint: exits after blocks 2, 5 and 8, threshold 0.95, k = 5.
_base_ = '../baselines/dinov2-s14_fcn-deep_camvid-672x504.py'
model = dict(type='mmtoken.TokenEncoderDecoder', backbone=dict(reducer=dict(type='mmtoken.DToP', threshold=0.95)))
