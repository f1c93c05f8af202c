# DINOv2 ViT-S/14 with a linear map of each patch token to 7x7 predictions inside the patch.
_base_ = './dinov2_small_linear.py'
model = dict(
    data_preprocessor=dict(size=(882, 840)),
    decode_head=dict(
        _delete_=True,
        type='mmtoken.SubPatchHead',
        in_channels=384,
        sub_patch=7,
        norm_cfg=dict(type='BN'),
        num_classes=2,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
