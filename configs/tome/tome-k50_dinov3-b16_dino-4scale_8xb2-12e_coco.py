# ToMe down to half of the tokens.
_base_ = '../baselines/dinov3-b16_dino-4scale_8xb2-12e_coco.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.5)))
