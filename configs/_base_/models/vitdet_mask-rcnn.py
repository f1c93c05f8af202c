# Mask R-CNN of ViTDet (arXiv 2203.16527): ViT-B, windows of 14 but for four blocks, pyramid from its last map.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'
norm_cfg = dict(type='mmtoken.LayerNorm2d', eps=1e-6)
model = dict(
    type='mmtoken.TokenMaskRCNN',
    data_preprocessor=dict(batch_augments=[dict(type='BatchFixedSizePad', size=(1024, 1024), pad_mask=True)]),
    backbone=dict(
        _delete_=True,
        type='mmtoken.TokenTimmSAM',
        model='samvit_base_patch16',
        embed_dim=768,
        num_heads=12,
        img_size=1024,
        drop_path_rate=0.1,
    ),
    neck=dict(_delete_=True, type='mmtoken.SimpleFPN', in_channels=768, out_channels=256),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
