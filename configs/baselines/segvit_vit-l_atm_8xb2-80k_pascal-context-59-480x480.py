# SegViT, ViT-L, PASCAL Context with 59 classes.
_base_ = [
    '../_base_/models/segvit_vit-l16.py',
    'mmseg::_base_/datasets/pascal_context_59.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/segvit_80k.py',
]
model = dict(
    data_preprocessor=dict(size=(480, 480)),
    backbone=dict(img_size=(480, 480)),
    decode_head=dict(num_classes=59),
    test_cfg=dict(crop_size=(480, 480), stride=(320, 320)),
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.03))
train_dataloader = dict(batch_size=2)
