# KITTI's depths, Eigen's split, in crops of 1216x352: data/kitti/{raw,depth}, splits/eigen_{train,test}.txt.
data_root = 'data/kitti/'
load = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadDepthAnnotation', depth_rescale_factor=1 / 256),
    dict(type='mmtoken.BottomCrop', size=(352, 1216)),
]
train_pipeline = [
    *load,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [*load, dict(type='PackSegInputs')]
prefix = dict(img_path='raw', depth_map_path='depth')
dataset = dict(type='mmtoken.KITTIDepthDataset', data_root=data_root, data_prefix=prefix)
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(dataset, ann_file='splits/eigen_train.txt', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(dataset, ann_file='splits/eigen_test.txt', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmtoken.DepthMetric', min_depth_eval=0.001, max_depth_eval=80.0, crop_type='garg_crop')
test_evaluator = val_evaluator
