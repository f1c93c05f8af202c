# Dense: a linear head on frozen features.
_base_ = [
    '../_base_/models/dinov2_small_linear.py',
    '../_base_/datasets/camvid_frozen.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/head_2k.py',
]
