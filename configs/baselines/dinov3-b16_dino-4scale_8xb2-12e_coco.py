# Dense: mmdet's DINO on DINOv3 ViT-B/16, with a pyramid from its last map.
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
# Made by `python tools/model_converters/timm.py CONFIG dinov3_vitb16_pretrain.pth checkpoints/dinov3-b16.pth`.
pretrained = dict(type='Pretrained', checkpoint='checkpoints/dinov3-b16.pth', prefix='backbone.')
model = dict(
    type='mmtoken.TokenDINO',
    backbone=dict(
        _delete_=True,
        type='mmtoken.TokenTimmEva',
        model='vit_base_patch16_dinov3_qkvb',
        embed_dim=768,
        num_heads=12,
        init_cfg=pretrained,
    ),
    neck=dict(
        _delete_=True, type='mmtoken.SimpleFPN', in_channels=768, out_channels=256, scales=(2, 1, 0.5, 0.25), num_outs=4
    ),
)
