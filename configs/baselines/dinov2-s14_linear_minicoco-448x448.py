# Dense: a linear head on frozen features, 27 super-categories of COCO.
_base_ = [
    '../_base_/models/dinov2_small_linear.py',
    '../_base_/datasets/minicoco_semantic.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/head_600.py',
]
model = dict(data_preprocessor=dict(size=(448, 448)), decode_head=dict(num_classes=27, norm_cfg=None))
