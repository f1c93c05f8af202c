# SAT-HMR's model (arXiv 2411.19824) but for its tokens: DINOv2 ViT-B/14 on pictures 1288 pixels long, 50 queries.
model = dict(
    type='mmtoken.TokenHumanMesh',
    data_preprocessor=dict(
        type='mmdet.DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=56,
    ),
    backbone=dict(
        type='mmtoken.TokenDINOv2',
        arch='base',
        img_size=1288,
        table='crop',
        fit='pad',
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/dinov2_vitb14.pth'),
    ),
    body_model=dict(type='FreeBody'),
    input_size=1288,
    num_queries=50,
    decoder=dict(dims=768, layers=6, heads=4, hidden=2048),
    denoising=dict(groups=10),
    test_cfg=dict(score_thr=0.5),
)
