# DINOv2 ViT-S/14 with DPT's depth head on blocks 2, 5, 8 and 11, 32 channels wide.
_base_ = './dinov2_small_linear.py'
model = dict(
    type='mmtoken.TokenDepthEstimator',
    data_preprocessor=dict(size=(420, 560), seg_pad_val=0),  # a depth of 0 was not measured
    backbone=dict(out_indices=(2, 5, 8, 11)),
    decode_head=dict(
        _delete_=True,
        type='mmtoken.DPTDepthHead',
        max_depth=10.0,
        embed_dims=384,
        post_process_channels=[32, 32, 64, 64],
        channels=32,
        patch_size=14,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='SiLogLoss'),
    ),
)
