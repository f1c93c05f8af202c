# DToP: predictions may become final after blocks 3, 6 and 9; the auxiliary heads decide.
_base_ = '../baselines/setr_vit-b_naive_8xb2-160k_ade20k-512x512.py'
model = dict(type='mmtoken.TokenEncoderDecoder', backbone=dict(reducer=dict(type='mmtoken.DToP', threshold=0.95)))
# Tuned for 40k iterations from the base model's weights: load_from=… on the command line.
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=40000, by_epoch=False)]
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
