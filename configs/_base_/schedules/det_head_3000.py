# Detection heads on frozen features: 3,000 steps.
_base_ = './det_head_400.py'
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=50, end=3000, by_epoch=False),
]
train_cfg = dict(max_iters=3000, val_interval=3000)
