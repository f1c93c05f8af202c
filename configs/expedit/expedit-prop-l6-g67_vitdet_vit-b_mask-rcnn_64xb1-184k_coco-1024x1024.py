# Expedit onto two thirds of each side before block 6 of 12, keys weighed by size.
_base_ = '../baselines/vitdet_vit-b_mask-rcnn_64xb1-184k_coco-1024x1024.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.67, proportional=True)))
