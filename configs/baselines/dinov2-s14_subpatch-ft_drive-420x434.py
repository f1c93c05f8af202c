# Fine-tuned: the last six blocks, from the checkpoint with the trained head; 600 steps of 2 pictures of 930 tokens.
_base_ = './dinov2-s14_subpatch_drive-420x434.py'
load_from = 'checkpoints/dinov2-s14_subpatch_drive-420x434.pth'
load, resize, annotations, flip, pack = _base_.train_pipeline
train_pipeline = [
    load,
    resize,
    annotations,
    flip,
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    pack,
]
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=train_pipeline))
model = dict(backbone=dict(frozen=False, frozen_stages=6, init_cfg=None))
optim_wrapper = dict(
    type='mmtoken.BF16OptimWrapper',
    optimizer=dict(_delete_=True, type='AdamW', lr=5e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={'backbone.reducer': dict(), 'backbone': dict(lr_mult=0.2), 'norm': dict(decay_mult=0.0)}
    ),
    clip_grad=dict(_delete_=True, max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, begin=0, end=10, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=10, end=600, by_epoch=False),
]
train_cfg = dict(max_iters=600, val_interval=600)
custom_hooks = []  # features change
