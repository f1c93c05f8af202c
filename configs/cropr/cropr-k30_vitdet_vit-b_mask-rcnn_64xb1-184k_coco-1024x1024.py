# Cropr on ViTDet: tokens are dropped after the global blocks, down to 30 %; all are back for the last one.
_base_ = '../baselines/vitdet_vit-b_mask-rcnn_64xb1-184k_coco-1024x1024.py'
model = dict(
    backbone=dict(
        reducer=dict(type='mmtoken.Cropr', keep=0.3, layers=[2, 5, 8], num_classes=80, target='image', multiple=8)
    )
)
