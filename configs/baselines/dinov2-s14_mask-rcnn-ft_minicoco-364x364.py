# Dense on a smaller picture, tuned at its size: ×0.8 of 448x448, with anchors of its objects' sizes.
_base_ = './dinov2-s14_mask-rcnn-ft_minicoco-448x448.py'
load_from = 'checkpoints/dinov2-s14_mask-rcnn_minicoco-364x364.pth'
scale = (364, 364)  # 26x26 = 676 tokens
model = dict(
    data_preprocessor=dict(batch_augments=[dict(type='BatchFixedSizePad', size=scale, pad_mask=True)]),
    rpn_head=dict(anchor_generator=dict(scales=[2.4])),
)
train_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.train_pipeline]
test_pipeline = [dict(step, scale=scale) if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
