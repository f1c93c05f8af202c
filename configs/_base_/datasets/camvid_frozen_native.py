# As camvid_frozen.py, with labels at their own 480x360 pixels: half the work for the losses of several heads.
_base_ = './camvid_frozen.py'
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(672, 504), keep_ratio=False),
            dict(type='LoadAnnotations'),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ]
    )
)
