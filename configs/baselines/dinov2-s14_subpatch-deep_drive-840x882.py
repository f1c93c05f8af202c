# Dense, with heads for early exits: 300 more steps of 4 pictures from dinov2-s14_subpatch_drive-840x882.py.
_base_ = [
    '../_base_/models/dinov2_small_subpatch-deep.py',
    '../_base_/datasets/drive.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/head_300.py',
]
load_from = 'checkpoints/dinov2-s14_subpatch_drive-840x882.pth'
