# Dense: a linear head on frozen features of DINOv3 ViT-B/16.
_base_ = './dinov3-s16_linear_8xb2-40k_ade20k-512x512.py'
# Made by `python tools/model_converters/timm.py CONFIG dinov3_vitb16_pretrain.pth checkpoints/dinov3-b16.pth`.
pretrained = dict(checkpoint='checkpoints/dinov3-b16.pth')
model = dict(
    backbone=dict(model='vit_base_patch16_dinov3_qkvb', embed_dim=768, num_heads=12, init_cfg=pretrained),
    decode_head=dict(in_channels=768, channels=768),
)
