# Dense: EVA-02-L, Cascade Mask R-CNN at 1536x1536, 9216 tokens. backbone.init_cfg: EVA-02's checkpoint, converted.
_base_ = ['../_base_/models/eva02_large_cascade-mask-rcnn.py', '../_base_/schedules/vitdet_184k.py']
image_size = (1536, 1536)
train_pipeline = [
    dict(step, **{key: image_size for key in ('scale', 'crop_size') if key in step}) for step in _base_.train_pipeline
]
test_pipeline = [dict(step, scale=image_size) if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=4e-5), paramwise_cfg=dict(layer_decay_rate=0.8))
param_scheduler = [dict(type='LinearLR', start_factor=1e-3, begin=0, end=400, by_epoch=False)]
train_cfg = dict(max_iters=40000, val_interval=5000)
custom_hooks = [dict(type='EMAHook', momentum=1e-4)]
