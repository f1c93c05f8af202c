# Dense, twice the size of the file.
_base_ = './dinov2-s14_subpatch_drive-840x882.py'
scale = (1120, 1176)  # width, height: 80x84 = 6720 tokens
model = dict(data_preprocessor=dict(size=scale[::-1]))
train_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
