# Expedit onto two thirds of each side before block 6 of 12, keys weighed by size.
_base_ = '../baselines/dinov3-b16_dino-4scale_8xb2-12e_coco.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.67, proportional=True)))
