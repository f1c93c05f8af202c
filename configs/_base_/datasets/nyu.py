# mmseg's NYU Depth v2 in whole pictures of 640x480; colours change without albumentations.
_base_ = 'mmseg::_base_/datasets/nyu.py'
train_pipeline = [
    dict(type='PhotoMetricDistortion') if step['type'] == 'Albu' else step
    for step in _base_.train_pipeline
    if not step['type'].startswith('RandomCrop')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
