# One resolution, 168 pixels, trained for 1,000 steps more: the dense model on a smaller picture.
_base_ = './dinov2-s14_mesh-tuned_crowd-336.py'
load_from = 'work_dirs/dinov2-s14_mesh_crowd-168/iter_4000.pth'
model = dict(input_size=168)
smaller = dict(type='mmtoken.ResizePeople', side=168)
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=[smaller, dict(type='mmtoken.PackPeople')])))
val_dataloader = dict(dataset=dict(pipeline=[smaller, dict(type='mmtoken.PackPeople')]))
test_dataloader = dict(dataset=dict(pipeline=[smaller, dict(type='mmtoken.PackPeople')]))
