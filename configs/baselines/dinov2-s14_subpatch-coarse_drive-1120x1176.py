# The head for coarse tokens (28x28 pixels): trained on the halved picture, 14x14 predictions a token.
_base_ = './dinov2-s14_subpatch_drive-840x882.py'
scale = (1120, 1176)  # width, height: 40x42 = 1680 coarse tokens
half = dict(type='Resize', scale=(560, 588), keep_ratio=False, interpolation='area')  # the mean of 2x2 pixels
model = dict(data_preprocessor=dict(size=half['scale'][::-1]), decode_head=dict(sub_patch=14))
load, resize, *train_rest = _base_.train_pipeline
train_dataloader = dict(dataset=dict(pipeline=[load, dict(resize, scale=scale), half, *train_rest]))
val_dataloader = dict(dataset=dict(pipeline=[load, dict(resize, scale=scale), half, *_base_.test_pipeline[2:]]))
test_dataloader = val_dataloader
