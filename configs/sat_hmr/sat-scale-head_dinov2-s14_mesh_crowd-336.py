# First step of the small model: the scale head alone, on the frozen backbone's first blocks.
_base_ = '../baselines/dinov2-s14_mesh_crowd-336.py'
model = dict(
    backbone=dict(reducer=dict(type='mmtoken.SAT', frozen_branch=True, mask_padding=True)),
    train_cfg=dict(only_reducer=True),
)
custom_hooks = []
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=50, end=1500, by_epoch=False),
]
train_cfg = dict(max_iters=1500, val_begin=1501)
