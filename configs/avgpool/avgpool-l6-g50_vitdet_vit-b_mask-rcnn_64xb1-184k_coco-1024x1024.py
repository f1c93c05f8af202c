# Average pooling 2x2 before block 6 of 12.
_base_ = '../baselines/vitdet_vit-b_mask-rcnn_64xb1-184k_coco-1024x1024.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.AvgPool', layer=6, grid=0.5)))
