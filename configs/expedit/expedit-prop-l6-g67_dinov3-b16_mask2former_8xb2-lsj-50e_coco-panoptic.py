# Expedit onto two thirds of each side before block 6 of 12, keys weighed by size.
_base_ = '../baselines/dinov3-b16_mask2former_8xb2-lsj-50e_coco-panoptic.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.67, proportional=True)))
