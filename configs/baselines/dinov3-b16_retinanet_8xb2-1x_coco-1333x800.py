# Dense: mmdet's RetinaNet on DINOv3 ViT-B/16, with a pyramid from its last map.
_base_ = './dinov3-s16_retinanet_8xb2-1x_coco-1333x800.py'
# Made by `python tools/model_converters/timm.py CONFIG dinov3_vitb16_pretrain.pth checkpoints/dinov3-b16.pth`.
pretrained = dict(checkpoint='checkpoints/dinov3-b16.pth')
model = dict(
    backbone=dict(model='vit_base_patch16_dinov3_qkvb', embed_dim=768, num_heads=12, init_cfg=pretrained),
    neck=dict(in_channels=768),
)
