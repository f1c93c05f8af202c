# DoViT with the exit heads of the deeply supervised model after blocks 5 and 8, threshold 0.98.
# It has the weights of dovit-t95_dinov2-s14_fcn-deep_camvid-672x504.py.
_base_ = '../baselines/dinov2-s14_fcn-deep_camvid-672x504.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.DoViT', exits=(5, 8), threshold=0.98, frozen=True)),
)
