# Average pooling 2x2 before block 6 of 12.
_base_ = '../baselines/dinov3-b16_linear_8xb2-40k_ade20k-512x512.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.AvgPool', layer=6, grid=0.5)))
