# Dense on a smaller picture: ×0.65 of 840x882.
_base_ = './dinov2-s14_subpatch_drive-840x882.py'
scale = (546, 574)  # width, height: 39x41 = 1599 tokens
model = dict(data_preprocessor=dict(size=scale[::-1]))
train_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
