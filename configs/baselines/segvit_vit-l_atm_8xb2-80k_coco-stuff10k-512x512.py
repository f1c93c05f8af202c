# SegViT, ViT-L, COCO-Stuff-10K.
_base_ = [
    '../_base_/models/segvit_vit-l16.py',
    'mmseg::_base_/datasets/coco-stuff10k.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/segvit_80k.py',
]
model = dict(decode_head=dict(num_classes=171))
optim_wrapper = dict(optimizer=dict(weight_decay=0.02))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=2.0, begin=1500, end=80000, by_epoch=False),
]
train_dataloader = dict(batch_size=2)
