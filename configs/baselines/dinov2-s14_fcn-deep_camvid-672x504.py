# Dense, deeply supervised: what early exits start from. 300 more steps of 16 pictures for the heads of
# dinov2-s14_fcn-deep_1k_camvid-672x504.py.
_base_ = [
    '../_base_/models/dinov2_small_fcn-deep.py',
    '../_base_/datasets/camvid_frozen_tokens.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/head_300.py',
]
load_from = 'checkpoints/dinov2-s14_fcn-deep_1k_camvid-672x504.pth'
