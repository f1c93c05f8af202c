# DoViT's base model: SETR-naive ViT-B with a head at each exit, ADE20K.
_base_ = [
    '../_base_/models/setr-dovit_vit-b16.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_160k.py',
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(img_size=(512, 512)),
    decode_head=dict(num_classes=150),
    auxiliary_head=[{**head, 'num_classes': 150} for head in _base_.model.auxiliary_head],
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
optim_wrapper = dict(
    optimizer=dict(lr=0.01, weight_decay=0.0), paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.0)})
)
train_dataloader = dict(batch_size=2)
