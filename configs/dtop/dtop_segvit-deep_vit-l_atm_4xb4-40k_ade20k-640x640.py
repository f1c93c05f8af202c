# DToP: predictions may become final after blocks 7 and 15.
_base_ = '../baselines/segvit-deep_vit-l_atm_4xb4-160k_ade20k-640x640.py'
model = dict(type='mmtoken.TokenEncoderDecoder', backbone=dict(reducer=dict(type='mmtoken.DToP', threshold=0.95)))
# Tuned for 40k iterations from the base model's weights: load_from=… on the command line.
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=0.9, begin=1500, end=40000, by_epoch=False),
]
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
