# Dense: DPT's depth head on frozen features.
_base_ = [
    '../_base_/models/dinov2_small_dpt-depth.py',
    '../_base_/datasets/rgbd.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/head_300.py',
]
default_hooks = dict(checkpoint=dict(save_best='rmse', rule='less'))
