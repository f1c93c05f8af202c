# Dense: a linear head on frozen features of DINOv3 ViT-S/16.
_base_ = [
    '../_base_/models/dinov3_small_linear.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_40k.py',
]
# Made by `python tools/model_converters/timm.py CONFIG dinov3_vits16_pretrain.pth checkpoints/dinov3-s16.pth`.
pretrained = dict(type='Pretrained', checkpoint='checkpoints/dinov3-s16.pth', prefix='backbone.')
model = dict(backbone=dict(init_cfg=pretrained))
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-3))
