# Expedit onto two thirds of each side before block 12 of 24, keys weighed by size.
_base_ = '../baselines/eva02-l_cascade-mask-rcnn_64xb1-40k_coco-1536x1536.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=12, grid=0.67, proportional=True)))
