# Dense: Mask2Former on Swin-L for instances, as its authors train it; mmdet has it up to Swin-S.
_base_ = 'mmdet::mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py'
pretrained = (
    'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_large_patch4_window12_384_22k.pth'
)
model = dict(
    type='mmtoken.TokenMask2Former',
    backbone=dict(
        type='mmtoken.TokenSwin',
        pretrain_img_size=384,
        embed_dims=192,
        num_heads=[6, 12, 24, 48],
        window_size=12,
        init_cfg=dict(type='Pretrained', checkpoint=pretrained),
    ),
    panoptic_head=dict(num_queries=200, in_channels=[192, 384, 768, 1536]),
)
train_dataloader = dict(batch_size=1, num_workers=1)
# 100 epochs of 16 pictures; evaluated every 5000 steps, and at the end.
param_scheduler = dict(end=737500, milestones=[655556, 710184])
train_cfg = dict(max_iters=737500, val_interval=5000, dynamic_intervals=[(735001, 737500)])
