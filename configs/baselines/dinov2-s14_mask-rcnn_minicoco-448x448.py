# Dense: Mask R-CNN on frozen features. In training, pictures are padded to one size, so that these can be kept.
_base_ = [
    '../_base_/models/dinov2_small_mask-rcnn.py',
    '../_base_/datasets/minicoco.py',
    '../_base_/default_runtime_det.py',
    '../_base_/schedules/det_head_3000.py',
]
model = dict(
    data_preprocessor=dict(batch_augments=[dict(type='BatchFixedSizePad', size=(448, 448), pad_mask=True)]),
    roi_head=dict(bbox_head=dict(num_classes=12), mask_head=dict(num_classes=12)),
)
optim_wrapper = dict(type='mmtoken.BF16OptimWrapper')
