# DoViT in training and test: exits after blocks 2, 5 and 8; the threshold falls to 0.95 over half of the schedule.
_base_ = '../baselines/dinov2-s14_fcn-deep-ft_camvid-336x252.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.DoViT', exits=(2, 5, 8), threshold=0.95, anneal_iters=150)),
)
