# AGORA and BEDLAM as SAT-HMR's authors prepared them, 1288 pixels long; validation on AGORA. SMPL is your own file.
smpl = dict(type='SMPL', model_path='data/body_models/smpl')
train_pipeline = [
    dict(type='mmtoken.LoadPeople'),
    dict(type='mmtoken.ResizePeople', side=1288),
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
    dict(type='mmtoken.MakeScaleMap', body_model=smpl),
    dict(type='mmtoken.PackPeople'),
]
test_pipeline = [
    dict(type='mmtoken.LoadPeople'),
    dict(type='mmtoken.ResizePeople', side=1288),
    dict(type='mmtoken.PackPeople'),
]
agora = dict(type='mmtoken.AGORADataset', data_root='data/agora/', body_model=smpl)
agora_train = dict(ann_file='annots_smpl_train_fit.npz', data_prefix=dict(img='train'), pipeline=train_pipeline)
agora_val = dict(ann_file='annots_smpl_validation.npz', data_prefix=dict(img='validation'), pipeline=test_pipeline)
bedlam = dict(
    type='mmtoken.BEDLAMDataset',
    data_root='data/bedlam/',
    ann_file='bedlam_smpl_train_6fps.npz',
    data_prefix=dict(img='train_images'),
    body_model=smpl,
    pipeline=train_pipeline,
)
loader = dict(num_workers=4, persistent_workers=True)
train_dataloader = dict(
    batch_size=6,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='ConcatDataset', datasets=[dict(**agora, **agora_train), bedlam]),
    **loader,
)
val_dataloader = dict(
    batch_size=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(test_mode=True, **agora, **agora_val),
    **loader,
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmtoken.HumanMeshMetric', body_model=smpl, score_thr=0.5)
test_evaluator = val_evaluator
