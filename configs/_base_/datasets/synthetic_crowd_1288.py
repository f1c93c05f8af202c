# Crowds that are drawn on the fly, 1288x728: every picture of the training is new, the 500 of the test are the same.
train_pipeline = [
    dict(type='mmtoken.RandomAffinePeople'),
    dict(type='mmtoken.RandomFlipPeople'),
    dict(
        type='mmdet.PhotoMetricDistortion',
        brightness_delta=51,
        contrast_range=(0.8, 1.2),
        saturation_range=(0.8, 1.2),
        hue_delta=0,
    ),
    dict(type='mmtoken.OccludePeople'),
    dict(type='mmtoken.MakeScaleMap'),
    dict(type='mmtoken.PackPeople'),
]
test_pipeline = [dict(type='mmtoken.PackPeople')]
crowd = dict(type='mmtoken.SyntheticCrowd', size=(728, 1288))
train_dataloader = dict(
    batch_size=6,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(length=60000, seed=0, pipeline=train_pipeline, **crowd),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(length=500, seed=1, test_mode=True, pipeline=test_pipeline, **crowd),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmtoken.HumanMeshMetric', score_thr=0.5)
test_evaluator = val_evaluator
