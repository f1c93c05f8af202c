# As camvid_frozen.py, with one label for each of the 48x36 tokens: heads learn from many pictures in a step.
_base_ = './camvid_frozen.py'
train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='Resize', scale=(672, 504), keep_ratio=False),
            dict(type='mmtoken.ResizeLabels', scale=(48, 36)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ]
    ),
)
