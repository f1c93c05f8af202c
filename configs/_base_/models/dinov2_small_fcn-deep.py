# DINOv2 ViT-S/14 with a 1x1 FCN head after blocks 2, 5, 8 and 11, each trained by itself.
_base_ = './dinov2_small_linear.py'
head = dict(
    type='FCNHead',
    in_channels=384,
    channels=256,
    num_convs=1,
    kernel_size=1,
    concat_input=False,
    dropout_ratio=0.0,
    norm_cfg=dict(type='BN'),
    num_classes=11,
    align_corners=False,
    loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
)
model = dict(
    backbone=dict(out_indices=(2, 5, 8, 11)),
    decode_head=dict(_delete_=True, in_index=3, **head),
    auxiliary_head=[dict(in_index=i, **head) for i in range(3)],
)
