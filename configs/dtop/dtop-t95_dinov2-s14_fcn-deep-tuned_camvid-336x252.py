# DToP in training and test: the published exits, threshold and k; context tokens weigh as much as what they stand for.
_base_ = '../baselines/dinov2-s14_fcn-deep-tuned_camvid-336x252.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(
        reducer=dict(type='mmtoken.DToP', exits=(2, 5, 8), threshold=0.95, keep_per_class=5, proportional=True)
    ),
)
