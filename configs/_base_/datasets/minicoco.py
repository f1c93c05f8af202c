# A small part of COCO 2017 with its 12 super-categories, since its 80 classes have too few objects there: pictures in
# data/minicoco/{train,val}, annotations by tools/dataset_converters/coco_supercategories.py. Pictures are fitted into
# 448x448. The test is every third picture of its validation set.
_base_ = 'mmdet::_base_/datasets/coco_instance.py'
data_root = 'data/'
annotations = 'minicoco_supercategories/annotations/'
scale = (448, 448)
classes = 'person vehicle outdoor animal accessory sports kitchen food furniture electronic appliance indoor'
metainfo = dict(classes=tuple(classes.split()))
train_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    batch_sampler=None,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file=annotations + 'instances_train.json',
        data_prefix=dict(img='minicoco/train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file=annotations + 'instances_val.json',
        data_prefix=dict(img='minicoco/val/'),
        indices=list(range(0, 261, 3)),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(type='mmtoken.CocoMetric', ann_file=data_root + annotations + 'instances_val.json')
test_evaluator = val_evaluator
custom_hooks = [dict(type='mmtoken.FeatureCacheHook', amp='bfloat16')]
