# Expedit onto two thirds of each side before block 12 of 24, keys weighed by size.
_base_ = '../baselines/vitdet_vit-l_mask-rcnn_64xb1-184k_coco-1024x1024.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=12, grid=0.67, proportional=True)))
