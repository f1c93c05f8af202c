# Average pooling 2x2 before block 12 of 24.
_base_ = '../baselines/eva02-l_cascade-mask-rcnn_64xb1-40k_coco-1536x1536.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.AvgPool', layer=12, grid=0.5)))
