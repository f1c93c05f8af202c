# One resolution, 224 pixels: the dense model on a smaller picture.
_base_ = './dinov2-s14_mesh_crowd-448.py'
model = dict(input_size=224)
pipeline = [dict(type='mmtoken.ResizePeople', side=224), dict(type='mmtoken.PackPeople')]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
val_dataloader = dict(dataset=dict(pipeline=pipeline))
test_dataloader = dict(dataset=dict(pipeline=pipeline))
