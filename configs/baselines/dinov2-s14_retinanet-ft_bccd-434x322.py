# Dense on a smaller picture, tuned at its size: ×0.65 of 672x504, with anchors of its objects' sizes.
_base_ = './dinov2-s14_retinanet-ft_bccd-672x504.py'
scale = (434, 322)  # width, height: 31x23 = 713 tokens
model = dict(bbox_head=dict(anchor_generator=dict(octave_base_scale=2.6)))
train_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
