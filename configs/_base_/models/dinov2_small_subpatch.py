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
        # Dice is highest where a pixel counts as a vessel from a probability of about Dice / 2 on: hence the weight.
        # A sum, since mmseg's mean of weighted classes fails on labels that are ignored.
        loss_decode=dict(type='CrossEntropyLoss', class_weight=[1.0, 2.5], reduction='sum', loss_weight=1e-6),
    ),
)
