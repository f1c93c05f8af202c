# ToMe down to half of the tokens.
_base_ = '../baselines/eva02-l_cascade-mask-rcnn_64xb1-40k_coco-1536x1536.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.5)))
