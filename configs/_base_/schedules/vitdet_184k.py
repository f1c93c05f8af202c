# ViTDet on COCO: 100 epochs of batch 64, learning rates that fall by 0.7 from block to block.
_base_ = '../datasets/coco_lsj-1024.py'
optim_wrapper = dict(
    _delete_=True,
    type='AmpOptimWrapper',
    constructor='mmtoken.LayerDecayOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    paramwise_cfg=dict(layer_decay_rate=0.7, norm_decay_mult=0.0, bias_decay_mult=0.0),
)
max_iters = 184375
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=250, by_epoch=False),
    dict(type='MultiStepLR', milestones=[163889, 177546], gamma=0.1, begin=0, end=max_iters, by_epoch=False),
]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=10000)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5000))
