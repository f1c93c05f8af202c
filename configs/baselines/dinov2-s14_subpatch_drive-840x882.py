# Dense: sub-patch predictions on frozen features.
_base_ = [
    '../_base_/models/dinov2_small_subpatch.py',
    '../_base_/datasets/drive.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/head_600.py',
]
