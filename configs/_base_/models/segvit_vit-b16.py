# SegViT (arXiv 2210.05844): ATM heads in a cascade over three taps, deepest first.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5, 127.5, 127.5],
        std=[127.5, 127.5, 127.5],
        bgr_to_rgb=True,
        size=(512, 512),
        pad_val=0,
        seg_pad_val=255,
    ),
    # ImageNet-21k AugReg weights, as in mmseg's segmenter.
    pretrained='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/'
    'vit_base_p16_384_20220308-96dfe169.pth',
    backbone=dict(
        type='mmtoken.TokenVisionTransformer',
        img_size=(512, 512),
        patch_size=16,
        embed_dims=768,
        num_layers=12,
        num_heads=12,
        out_indices=(5, 7, 11),
        drop_path_rate=0.1,
        with_cls_token=False,
        final_norm=False,
        norm_cfg=dict(type='LN', eps=1e-6, requires_grad=True),
        interpolate_mode='bicubic',
    ),
    decode_head=dict(
        type='mmtoken.ATMHead',
        in_channels=[768] * 3,
        in_index=[0, 1, 2],
        channels=384,
        num_layers=3,
        num_heads=12,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type='mmtoken.ATMLoss'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
