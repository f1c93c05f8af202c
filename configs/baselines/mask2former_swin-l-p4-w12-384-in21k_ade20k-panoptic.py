# Dense: Mask2Former on Swin-L, panoptic segmentation of ADE20K; to test with: mmdet has no such training set.
_base_ = 'mmdet::mask2former/mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic.py'
things, stuff = 100, 50
model = dict(
    type='mmtoken.TokenMask2Former',
    backbone=dict(type='mmtoken.TokenSwin'),
    panoptic_head=dict(
        num_things_classes=things,
        num_stuff_classes=stuff,
        loss_cls=dict(class_weight=[1.0] * (things + stuff) + [0.1]),
    ),
    panoptic_fusion_head=dict(num_things_classes=things, num_stuff_classes=stuff),
)
root = 'data/ADEChallengeData2016/'
val_dataloader = dict(
    dataset=dict(
        type='ADE20KPanopticDataset',
        data_root=root,
        ann_file='ade20k_panoptic_val.json',
        data_prefix=dict(_delete_=True, img='images/validation/', seg='ade20k_panoptic_val/'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(2560, 640), keep_ratio=True),
            dict(type='LoadPanopticAnnotations'),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
        ],
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True,
    type='CocoPanopticMetric',
    ann_file=root + 'ade20k_panoptic_val.json',
    seg_prefix=root + 'ade20k_panoptic_val/',
)
test_evaluator = val_evaluator
train_dataloader = train_cfg = optim_wrapper = param_scheduler = None
