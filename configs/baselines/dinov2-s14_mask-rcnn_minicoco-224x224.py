# Dense on a smaller picture: ×0.5 of 448x448, with anchors of its objects' sizes.
_base_ = './dinov2-s14_mask-rcnn_minicoco-448x448.py'
scale = (224, 224)  # 16x16 = 256 tokens
model = dict(
    data_preprocessor=dict(batch_augments=[dict(type='BatchFixedSizePad', size=scale, pad_mask=True)]),
    rpn_head=dict(anchor_generator=dict(scales=[1.5])),
)
train_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
