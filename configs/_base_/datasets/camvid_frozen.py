# CamVid for heads on a frozen backbone: whole images and flips only, so that its features can be kept.
_base_ = './camvid.py'
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='Resize', scale=(672, 504), keep_ratio=False),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ]
    ),
)
custom_hooks = [dict(type='mmtoken.FeatureCacheHook')]
