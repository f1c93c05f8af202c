# Cropr, 97 % of the tokens dropped after five global blocks. Parts in windows of 256 tokens of 36: 24, 12, 6, 2 and 1;
# the paper gives neither them nor its schedule, these meet its cost.
_base_ = '../baselines/eva02-l_cascade-mask-rcnn_64xb1-40k_coco-1536x1536.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmtoken.Cropr',
            keep=[24 / 36, 12 / 36, 6 / 36, 2 / 36, 1 / 36],
            layers=[5, 8, 11, 14, 20],
            num_classes=80,
            target='image',
        )
    )
)
