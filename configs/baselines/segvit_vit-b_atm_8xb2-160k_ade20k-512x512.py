# SegViT, ViT-B, ADE20K.
_base_ = [
    '../_base_/models/segvit_vit-b16.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/segvit_160k.py',
]
train_dataloader = dict(batch_size=2)
