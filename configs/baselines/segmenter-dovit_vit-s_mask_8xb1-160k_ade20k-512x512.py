# DoViT's base model: Segmenter ViT-S with an auxiliary head at each exit, ADE20K.
_base_ = [
    '../_base_/models/segmenter-dovit_vit-s16.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_160k.py',
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(img_size=(512, 512)),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
optim_wrapper = dict(optimizer=dict(lr=0.001, weight_decay=0.0))
train_dataloader = dict(batch_size=1)
