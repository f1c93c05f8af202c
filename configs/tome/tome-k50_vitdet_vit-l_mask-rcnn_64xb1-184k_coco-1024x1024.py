# ToMe down to half of the tokens.
_base_ = '../baselines/vitdet_vit-l_mask-rcnn_64xb1-184k_coco-1024x1024.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.5)))
