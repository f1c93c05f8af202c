# SETR-naive (arXiv 2012.15840) on ViT-B, with an auxiliary head at each exit of DoViT (arXiv 2308.01944).
_base_ = 'mmseg::_base_/models/setr_naive.py'
head = dict(
    type='SETRUPHead',
    in_channels=768,
    channels=256,
    num_classes=19,
    dropout_ratio=0,
    norm_cfg=dict(type='SyncBN', requires_grad=True),
    num_convs=1,
    up_scale=4,
    kernel_size=1,
    align_corners=False,
    loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
)
model = dict(
    pretrained=None,
    backbone=dict(
        type='mmtoken.TokenVisionTransformer',
        embed_dims=768,
        num_layers=12,
        num_heads=12,
        out_indices=(1, 4, 7, 11),
        drop_rate=0.0,
        # Made by mmseg's tools/model_converters/vit2mmseg.py from timm's weights.
        init_cfg=dict(type='Pretrained', checkpoint='pretrain/vit_base_p16.pth'),
    ),
    decode_head=dict(in_channels=768),
    auxiliary_head=[dict(**head, in_index=i) for i in range(3)],
)
