# Expedit inside windows: 9x9 centres in each of 14x14 patches before block 6 of 12, keys weighed by size.
_base_ = '../baselines/vitdet_vit-b_mask-rcnn_64xb1-184k_coco-1024x1024.py'
model = dict(
    backbone=dict(
        reduce_within='window',
        reducer=dict(type='mmtoken.Expedit', layer=6, grid=(9, 9), proportional=True),
    )
)
