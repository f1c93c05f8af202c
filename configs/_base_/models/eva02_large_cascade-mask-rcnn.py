# Cascade Mask R-CNN on EVA-02-L (arXiv 2303.11331): windows of 16 but for eight blocks, 1536x1536 pixels.
_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'
norm_cfg = dict(type='mmtoken.LayerNorm2d', eps=1e-6)
box_head = dict(type='Shared4Conv1FCBBoxHead', conv_out_channels=256, norm_cfg=norm_cfg)
model = dict(
    type='mmtoken.TokenCascadeRCNN',
    data_preprocessor=dict(
        mean=[122.771, 116.746, 104.094],
        std=[68.5, 66.632, 70.323],
        batch_augments=[dict(type='BatchFixedSizePad', size=(1536, 1536), pad_mask=True)],
    ),
    backbone=dict(
        _delete_=True,
        type='mmtoken.TokenTimmEva',
        model='eva02_large_patch14_224',
        img_size=1536,
        patch_size=16,
        embed_dim=1024,
        num_heads=16,
        class_token=False,
        window_size=16,
        global_blocks=[2, 5, 8, 11, 14, 17, 20, 23],
        final_norm=False,
        drop_path_rate=0.3,
        with_cp=True,
    ),
    neck=dict(_delete_=True, type='mmtoken.SimpleFPN', in_channels=1024, out_channels=256),
    rpn_head=dict(num_convs=2),
    roi_head=dict(
        bbox_head=[dict(head, **box_head) for head in _base_.model.roi_head.bbox_head],
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
