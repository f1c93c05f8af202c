# A pretrained backbone and new heads, all trained in bfloat16: 300 steps.
optim_wrapper = dict(
    type='mmtoken.BF16OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys={'backbone.reducer': dict(), 'backbone': dict(lr_mult=0.1), 'norm': dict(decay_mult=0.0)}
    ),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, begin=0, end=30, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=30, end=300, by_epoch=False),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=300, val_interval=300)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
