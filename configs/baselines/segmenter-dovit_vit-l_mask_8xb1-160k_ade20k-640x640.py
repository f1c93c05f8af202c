# DoViT's base model: Segmenter ViT-L with an auxiliary head at each exit, ADE20K.
_base_ = [
    '../_base_/models/segmenter-dovit_vit-l16.py',
    'mmseg::_base_/datasets/ade20k_640x640.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_160k.py',
]
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(img_size=(640, 640)),
    test_cfg=dict(mode='slide', crop_size=(640, 640), stride=(608, 608)),
)
optim_wrapper = dict(optimizer=dict(lr=0.001, weight_decay=0.0))
train_dataloader = dict(batch_size=1)
