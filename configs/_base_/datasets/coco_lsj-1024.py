# COCO with large-scale jittering, by iterations; padded to 1024x1024.
_base_ = 'mmdet::common/lsj-100e_coco-instance.py'
image_size = (1024, 1024)
test_pipeline = [dict(step, scale=image_size) if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(
    batch_size=1,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(_delete_=True, **_base_.train_dataloader.dataset.dataset),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
log_processor = dict(by_epoch=False)
