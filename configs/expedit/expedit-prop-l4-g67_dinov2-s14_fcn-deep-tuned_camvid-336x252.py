# Expedit in training and test: 192 of 432 tokens from block 4 on, keys weighed by token size.
_base_ = '../baselines/dinov2-s14_fcn-deep-tuned_camvid-336x252.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=4, grid=2 / 3, proportional=True)))
