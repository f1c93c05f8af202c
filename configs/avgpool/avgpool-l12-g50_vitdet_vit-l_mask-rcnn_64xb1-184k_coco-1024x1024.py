# Average pooling 2x2 before block 12 of 24.
_base_ = '../baselines/vitdet_vit-l_mask-rcnn_64xb1-184k_coco-1024x1024.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.AvgPool', layer=12, grid=0.5)))
