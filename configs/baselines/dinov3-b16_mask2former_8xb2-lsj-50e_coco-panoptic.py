# Dense: mmdet's Mask2Former on DINOv3 ViT-B/16, with a pyramid from its last map; panoptic segmentation.
_base_ = 'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py'
# Made by `python tools/model_converters/timm.py CONFIG dinov3_vitb16_pretrain.pth checkpoints/dinov3-b16.pth`.
pretrained = dict(type='Pretrained', checkpoint='checkpoints/dinov3-b16.pth', prefix='backbone.')
model = dict(
    type='mmtoken.TokenMask2Former',
    backbone=dict(
        _delete_=True,
        type='mmtoken.TokenTimmEva',
        model='vit_base_patch16_dinov3_qkvb',
        embed_dim=768,
        num_heads=12,
        init_cfg=pretrained,
    ),
    neck=dict(type='mmtoken.SimpleFPN', in_channels=768, out_channels=256, scales=(4, 2, 1, 0.5), num_outs=4),
    panoptic_head=dict(in_channels=[256, 256, 256, 256]),
)
