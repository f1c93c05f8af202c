# DINOv2 ViT-S/14 with Segmenter's mask transformer (arXiv 2105.05633) of ViT-T's width.
_base_ = './dinov2_small_linear.py'
model = dict(
    decode_head=dict(
        _delete_=True,
        type='SegmenterMaskTransformerHead',
        in_channels=384,
        channels=192,
        embed_dims=192,
        num_heads=3,
        num_layers=2,
        dropout_ratio=0.0,
        num_classes=11,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    )
)
