# The small model, its decoder trained for 1,000 steps more at a lower rate: the twin of what is tuned to a method.
_base_ = './dinov2-s14_mesh_crowd-336.py'
load_from = 'work_dirs/dinov2-s14_mesh_crowd-336/iter_4000.pth'
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=100, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, begin=100, end=1000, by_epoch=False),
]
train_cfg = dict(max_iters=1000, val_interval=1000)
