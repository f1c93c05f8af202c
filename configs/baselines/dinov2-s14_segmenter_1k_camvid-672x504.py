# Dense: Segmenter's mask transformer head on frozen features.
_base_ = [
    '../_base_/models/dinov2_small_segmenter.py',
    '../_base_/datasets/camvid_frozen.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/head_2k.py',
]
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(_delete_=True, max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=100, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=100, end=1000, by_epoch=False),
]
train_cfg = dict(max_iters=1000, val_interval=1000)
