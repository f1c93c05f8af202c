# DPT for depth on ViT-B/16: mmseg's DPT, with the paper's head for depth, in metres.
_base_ = 'mmseg::_base_/models/dpt_vit-b16.py'
model = dict(
    type='mmtoken.TokenDepthEstimator',
    data_preprocessor=dict(seg_pad_val=0),  # a depth of 0 was not measured
    backbone=dict(type='mmtoken.TokenVisionTransformer'),
    decode_head=dict(
        _delete_=True,
        type='mmtoken.DPTDepthHead',
        max_depth=10.0,
        embed_dims=768,
        post_process_channels=[96, 192, 384, 768],
        channels=256,
        readout_type='project',
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='SiLogLoss'),
    ),
)
