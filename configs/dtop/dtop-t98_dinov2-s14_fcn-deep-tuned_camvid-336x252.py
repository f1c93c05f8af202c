# DToP at threshold 0.98, with the weights of dtop-t95_dinov2-s14_fcn-deep-tuned_camvid-336x252.py.
_base_ = './dtop-t95_dinov2-s14_fcn-deep-tuned_camvid-336x252.py'
model = dict(backbone=dict(reducer=dict(threshold=0.98)))
