# MixedScale with MSViT's gate, the only thing that is trained: 60 steps of 4 crops of 280x280, from the dense weights.
_base_ = '../baselines/dinov2-s14_subpatch_drive-840x882.py'
load_from = 'checkpoints/dinov2-s14_subpatch_drive-840x882.pth'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    data_preprocessor=dict(size=(280, 280)),
    backbone=dict(
        reducer=dict(
            type='mmtoken.MixedScale', restore='logits', fine=0.45, selector=dict(type='learned', budget=0.45)
        ),
    ),
    decode_head=dict(norm_cfg=dict(momentum=0.0)),  # its statistics stay too
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(840, 882), keep_ratio=False),
    dict(type='RandomCrop', crop_size=(280, 280)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(
    type='mmtoken.BF16OptimWrapper',
    optimizer=dict(lr=2e-3, weight_decay=0.0),
    paramwise_cfg=dict(custom_keys={'decode_head': dict(lr_mult=0.0)}),
)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=1.0, begin=0, end=60, by_epoch=False)]
train_cfg = dict(max_iters=60, val_interval=1000)
custom_hooks = []  # crops change, so features do
