# Dense, deeply supervised, first part: 1000 steps of 4 pictures, labels at their own 480x360 pixels.
_base_ = [
    '../_base_/models/dinov2_small_fcn-deep.py',
    '../_base_/datasets/camvid_frozen_native.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/head_1k.py',
]
