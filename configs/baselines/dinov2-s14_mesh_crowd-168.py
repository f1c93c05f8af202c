# One resolution, 168 pixels: the dense model on a smaller picture.
_base_ = './dinov2-s14_mesh_crowd-336.py'
model = dict(input_size=168)
smaller = dict(type='mmtoken.ResizePeople', side=168)
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=[smaller, dict(type='mmtoken.PackPeople')])))
val_dataloader = dict(dataset=dict(pipeline=[smaller, dict(type='mmtoken.PackPeople')]))
test_dataloader = dict(dataset=dict(pipeline=[smaller, dict(type='mmtoken.PackPeople')]))
