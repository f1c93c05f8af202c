# Cropr on the dense detector as it is: queries and auxiliary heads alone learn, which class lies in each cell of 28
# pixels, for 300 steps of 4 pictures, with a rate drawn for each batch.
_base_ = '../baselines/dinov2-s14_retinanet_bccd-672x504.py'
load_from = 'checkpoints/dinov2-s14_retinanet_bccd-672x504.pth'
model = dict(
    train_cfg=dict(only_reducer=True),
    backbone=dict(
        reducer=dict(
            type='mmtoken.Cropr',
            keep=0.1,
            random=(0.2, 1.0),
            layers=[1, 3, 5, 7],
            num_classes=3,
            target='tokens',
            queries=(18, 24),
            norm=True,
        ),
    ),
)
optim_wrapper = dict(type='mmtoken.BF16OptimWrapper', optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, begin=0, end=10, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=10, end=300, by_epoch=False),
]
train_cfg = dict(max_iters=300, val_interval=1000)
custom_hooks = []  # features change
