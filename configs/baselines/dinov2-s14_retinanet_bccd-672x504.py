# Dense: RetinaNet on frozen features.
_base_ = [
    '../_base_/models/dinov2_small_retinanet.py',
    '../_base_/datasets/bccd.py',
    '../_base_/default_runtime_det.py',
    '../_base_/schedules/det_head_400.py',
]
model = dict(bbox_head=dict(num_classes=3, anchor_generator=dict(ratios=[1.0])))  # cells are as wide as high
