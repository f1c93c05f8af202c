# 100 + 100 pictures of COCO 2017 with its 27 super-categories, at 448x448: 32x32 patches of 14. Labels by
# tools/dataset_converters/coco_supercategories.py. For heads on a frozen backbone: whole images and flips only.
data_root = 'data/minicoco_supercategories'
scale = (448, 448)  # width, height
classes = """person vehicle outdoor animal accessory sports kitchen food furniture electronic appliance indoor textile
building raw-material furniture-stuff floor plant food-stuff ground structural water wall window ceiling sky solid"""
dataset = dict(type='BaseSegDataset', data_root=data_root, metainfo=dict(classes=tuple(classes.split())))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=scale, keep_ratio=False),
    dict(type='mmtoken.ResizeLabels', scale=(32, 32)),  # one label a token
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=False),
    dict(type='LoadAnnotations'),  # after Resize: scored at the picture's own size
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        dataset, data_prefix=dict(img_path='images/train', seg_map_path='labels/train'), pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(dataset, data_prefix=dict(img_path='images/val', seg_map_path='labels/val'), pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
custom_hooks = [dict(type='mmtoken.FeatureCacheHook', amp='bfloat16')]
