# ToMe down to half of the tokens.
_base_ = '../baselines/dinov3-b16_mask2former_8xb2-lsj-50e_coco-panoptic.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.5)))
