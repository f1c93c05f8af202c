# Dense, deeply supervised: what early exits start from.
_base_ = [
    '../_base_/models/dinov2_small_fcn-deep.py',
    '../_base_/datasets/camvid_frozen_tokens.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/head_300.py',
]
