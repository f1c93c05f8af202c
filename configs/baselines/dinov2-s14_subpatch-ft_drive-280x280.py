# Fine-tuned on a smaller picture of 400 tokens, as dinov2-s14_subpatch-ft_drive-420x434 is.
_base_ = './dinov2-s14_subpatch-ft_drive-420x434.py'
scale = (280, 280)  # width, height: 20x20=400 tokens
model = dict(data_preprocessor=dict(size=scale[::-1]))
train_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
