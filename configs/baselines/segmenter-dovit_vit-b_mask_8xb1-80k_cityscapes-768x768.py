# DoViT's base model: Segmenter ViT-B with an auxiliary head at each exit, Cityscapes.
_base_ = [
    '../_base_/models/segmenter-dovit_vit-b16.py',
    'mmseg::_base_/datasets/cityscapes_768x768.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_80k.py',
]
model = dict(
    data_preprocessor=dict(size=(768, 768)),
    backbone=dict(img_size=(768, 768)),
    decode_head=dict(num_classes=19),
    auxiliary_head=[{**head, 'num_classes': 19} for head in _base_.model.auxiliary_head],
    test_cfg=dict(mode='slide', crop_size=(768, 768), stride=(512, 512)),
)
optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=0.0))
train_dataloader = dict(batch_size=1)
