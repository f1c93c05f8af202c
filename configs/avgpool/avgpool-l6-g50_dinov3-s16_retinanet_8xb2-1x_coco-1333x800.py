# Average pooling 2x2 before block 6 of 12.
_base_ = '../baselines/dinov3-s16_retinanet_8xb2-1x_coco-1333x800.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.AvgPool', layer=6, grid=0.5)))
