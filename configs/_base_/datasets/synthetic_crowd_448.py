# Crowds that are drawn on the fly, 448x448: every picture of the training is new, the 500 of the test are the same.
train_pipeline = [dict(type='mmtoken.MakeScaleMap'), dict(type='mmtoken.PackPeople')]
test_pipeline = [dict(type='mmtoken.PackPeople')]
crowd = dict(type='mmtoken.SyntheticCrowd', size=(448, 448))
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=False),
    dataset=dict(length=1000000, seed=0, pipeline=train_pipeline, **crowd),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(length=500, seed=1, test_mode=True, pipeline=test_pipeline, **crowd),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmtoken.HumanMeshMetric', score_thr=0.5)
test_evaluator = val_evaluator
