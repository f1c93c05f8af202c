# Fine-tuned: the whole detector, from the one on frozen features, in bfloat16; 150 steps of 4 pictures.
_base_ = './dinov2-s14_retinanet_bccd-672x504.py'
load_from = 'checkpoints/dinov2-s14_retinanet_bccd-672x504.pth'
model = dict(backbone=dict(frozen=False, init_cfg=None))
optim_wrapper = dict(
    type='mmtoken.BF16OptimWrapper',
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(
        custom_keys={
            'backbone.reducer': dict(lr_mult=10.0),
            'backbone': dict(lr_mult=0.1),
            'norm': dict(decay_mult=0.0),
        }
    ),
)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=1.0, begin=0, end=150, by_epoch=False)]
train_cfg = dict(max_iters=150, val_interval=150)
custom_hooks = []  # features change
