# DoViT in training and test: exits after blocks 2, 5 and 8, threshold 0.95.
_base_ = '../baselines/dinov2-s14_fcn-deep-tuned_camvid-336x252.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.DoViT', exits=(2, 5, 8), threshold=0.95)),
)
