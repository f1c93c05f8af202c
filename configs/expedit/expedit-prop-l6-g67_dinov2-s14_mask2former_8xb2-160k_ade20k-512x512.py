# Expedit onto two thirds of each side before block 6 of 12, keys weighed by size.
_base_ = '../baselines/dinov2-s14_mask2former_8xb2-160k_ade20k-512x512.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.67, proportional=True)))
