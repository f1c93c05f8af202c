# Dense on a smaller picture: ×0.5 of 560x420.
_base_ = './dinov2-s14_dpt_rgbd-560x420.py'
scale = (280, 210)  # width, height: 20x15 = 300 tokens
model = dict(data_preprocessor=dict(size=scale[::-1]))
train_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
