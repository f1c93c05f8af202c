# Of DToP's base models: no gradient clipping, weight decay on everything.
_base_ = './segvit_160k.py'
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=1.0), clip_grad=None)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=1500, end=160000, by_epoch=False),
]
