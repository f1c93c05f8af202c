# Dense, 80 more steps of 8 pictures from dinov2-s14_fcn-deep-ft_camvid-336x252.py: the schedule of DToP and DoViT.
_base_ = './dinov2-s14_fcn-deep-ft_camvid-336x252.py'
load_from = 'checkpoints/dinov2-s14_fcn-deep-ft_camvid-336x252.pth'
model = dict(backbone=dict(init_cfg=None))
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, begin=0, end=10, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=10, end=80, by_epoch=False),
]
train_cfg = dict(max_iters=80, val_interval=1000)
