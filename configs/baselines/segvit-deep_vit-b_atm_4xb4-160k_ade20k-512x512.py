# DToP's base model: SegViT with a head on each exit, ViT-B, ADE20K.
_base_ = [
    '../_base_/models/segvit-deep_vit-b16.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/segvit-deep_160k.py',
]
# Published with ImageNet's statistics, though the backbone's weights were made with 127.5.
model = dict(data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]))
train_dataloader = dict(batch_size=4)
