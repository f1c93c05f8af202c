# ToMe in training and test: merged down to 35 % of the 432 tokens in the first eight blocks.
_base_ = '../baselines/dinov2-s14_fcn-deep-tuned_camvid-336x252.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.35, layers=list(range(8)))))
