# Scale-adaptive tokens for the dense model as it is: the scale head alone learns, on the frozen first blocks.
_base_ = '../baselines/dinov2-s14_mesh_crowd-336.py'
load_from = 'work_dirs/dinov2-s14_mesh_crowd-336/iter_4000.pth'
model = dict(
    backbone=dict(reducer=dict(type='mmtoken.SAT', confidence=0.15, frozen_branch=True, mask_padding=True)),
    train_cfg=dict(only_reducer=True),
)
custom_hooks = []
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=50, end=1500, by_epoch=False),
]
train_cfg = dict(max_iters=1500, val_begin=1501)
