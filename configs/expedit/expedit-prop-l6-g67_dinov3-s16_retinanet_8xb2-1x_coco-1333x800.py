# Expedit onto two thirds of each side before block 6 of 12, keys weighed by size.
_base_ = '../baselines/dinov3-s16_retinanet_8xb2-1x_coco-1333x800.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.67, proportional=True)))
