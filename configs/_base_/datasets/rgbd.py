# One room of 7-Scenes (640x480, depth in millimetres) at 560x420: 40x30 = 1200 patches of 14. For heads on a frozen
# backbone: whole images and flips only, so that its features can be kept.
dataset_type = 'NYUDataset'  # pairs of pictures and depth maps of one name
data_root = 'data/rgbd'
scale = (560, 420)  # width, height
load_depth = dict(type='mmtoken.LoadDepth', depth_rescale_factor=1e-3, max_depth=10.0)  # 65535: not measured
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=False),
    load_depth,  # after Resize: learnt and scored at the sensor's own size
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=False),
    load_depth,
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='train', depth_map_path='train'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='val', depth_map_path='val'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='DepthMetric', min_depth_eval=0.001, max_depth_eval=10.0)
test_evaluator = val_evaluator
custom_hooks = [dict(type='mmtoken.FeatureCacheHook', amp='bfloat16')]
