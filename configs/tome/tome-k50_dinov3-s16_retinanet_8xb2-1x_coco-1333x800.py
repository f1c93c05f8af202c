# ToMe down to half of the tokens.
_base_ = '../baselines/dinov3-s16_retinanet_8xb2-1x_coco-1333x800.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.5)))
