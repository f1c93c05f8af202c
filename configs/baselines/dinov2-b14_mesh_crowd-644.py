# One resolution, 644 pixels: the dense model on a smaller picture.
_base_ = './dinov2-b14_mesh_crowd-1288.py'
model = dict(backbone=dict(img_size=644), input_size=644)
resize = dict(type='mmtoken.ResizePeople', side=644)
train_pipeline = [*_base_.train_pipeline[:-1], resize, _base_.train_pipeline[-1]]
test_pipeline = [resize, *_base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
