# DToP's base model: SegViT with a head on each exit, ViT-L, ADE20K.
_base_ = [
    '../_base_/models/segvit-deep_vit-l16.py',
    'mmseg::_base_/datasets/ade20k_640x640.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/segvit-deep_160k.py',
]
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(img_size=(640, 640)),
    test_cfg=dict(crop_size=(640, 640), stride=(320, 320)),
)
train_dataloader = dict(batch_size=4)
