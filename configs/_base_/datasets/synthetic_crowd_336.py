# One to six people, 336x336: 3000 pictures that are drawn once and kept (1 GB), and 500 others for the test.
crowd = dict(type='mmtoken.SyntheticCrowd', size=(336, 336), people=(1, 6), scales=(0.08, 0.9), things=(0, 2))
train_pipeline = [dict(type='mmtoken.MakeScaleMap'), dict(type='mmtoken.PackPeople')]
test_pipeline = [dict(type='mmtoken.PackPeople')]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(type='mmtoken.KeptDataset', dataset=dict(length=3000, seed=0, pipeline=train_pipeline, **crowd)),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(length=500, seed=1, test_mode=True, pipeline=test_pipeline, **crowd),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmtoken.HumanMeshMetric', score_thr=0.3)  # confidences stay low in a short training
test_evaluator = val_evaluator
# The backbone is frozen, so decoders learn on features that are made once for each picture.
custom_hooks = [dict(type='mmtoken.FeatureCacheHook', amp='bfloat16')]
