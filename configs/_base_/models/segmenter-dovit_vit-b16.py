# Segmenter (arXiv 2105.05633) on ViT-B, with an auxiliary head at each exit of DoViT (arXiv 2308.01944).
_base_ = 'mmseg::_base_/models/segmenter_vit-b16_mask.py'
head = dict(
    type='FCNHead',
    in_channels=768,
    channels=256,
    num_convs=1,
    kernel_size=1,
    concat_input=False,
    num_classes=150,
    norm_cfg=dict(type='SyncBN', requires_grad=True),
    align_corners=False,
    loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
)
model = dict(
    pretrained='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/'
    'vit_base_p16_384_20220308-96dfe169.pth',
    backbone=dict(
        type='mmtoken.TokenVisionTransformer', embed_dims=768, num_layers=12, num_heads=12, out_indices=(1, 4, 7, 11)
    ),
    decode_head=dict(in_channels=768, channels=768, embed_dims=768, num_heads=12, in_index=3),
    auxiliary_head=[dict(**head, in_index=i) for i in range(3)],
)
