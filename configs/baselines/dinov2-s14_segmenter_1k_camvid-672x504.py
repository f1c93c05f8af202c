# Dense: Segmenter's mask transformer head on frozen features.
_base_ = [
    '../_base_/models/dinov2_small_segmenter.py',
    '../_base_/datasets/camvid_frozen.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/head_1k.py',
]
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=1.0))
