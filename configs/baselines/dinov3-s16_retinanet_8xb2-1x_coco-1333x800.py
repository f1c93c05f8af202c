# Dense: mmdet's RetinaNet on DINOv3 ViT-S/16, with a pyramid from its last map.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
# Made by `python tools/model_converters/timm.py CONFIG dinov3_vits16_pretrain.pth checkpoints/dinov3-s16.pth`.
pretrained = dict(type='Pretrained', checkpoint='checkpoints/dinov3-s16.pth', prefix='backbone.')
model = dict(
    type='mmtoken.TokenRetinaNet',
    backbone=dict(
        _delete_=True,
        type='mmtoken.TokenTimmEva',
        model='vit_small_patch16_dinov3_qkvb',
        embed_dim=384,
        init_cfg=pretrained,
    ),
    neck=dict(
        _delete_=True, type='mmtoken.SimpleFPN', in_channels=384, out_channels=256, scales=(2, 1, 0.5), num_outs=5
    ),
)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='mmtoken.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.8, norm_decay_mult=0.0),
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
)
