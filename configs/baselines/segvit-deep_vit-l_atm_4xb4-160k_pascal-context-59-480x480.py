# DToP's base model: SegViT with a head on each exit, ViT-L, PASCAL Context with 59 classes.
_base_ = [
    '../_base_/models/segvit-deep_vit-l16.py',
    'mmseg::_base_/datasets/pascal_context_59.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/segvit-deep_160k.py',
]
head = dict(num_heads=16, num_classes=59)
model = dict(
    data_preprocessor=dict(size=(480, 480)),
    backbone=dict(img_size=(480, 480)),
    decode_head=head,
    auxiliary_head=[{**_base_.model.auxiliary_head[0], **head}, {**_base_.model.auxiliary_head[1], **head}],
    test_cfg=dict(crop_size=(480, 480), stride=(320, 320)),
)
train_dataloader = dict(batch_size=4)
