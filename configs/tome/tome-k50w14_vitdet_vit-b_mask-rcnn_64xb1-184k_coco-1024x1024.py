# ToMe down to half of the tokens of each window of 14x14 patches.
_base_ = '../baselines/vitdet_vit-b_mask-rcnn_64xb1-184k_coco-1024x1024.py'
model = dict(backbone=dict(reduce_within='window', reducer=dict(type='mmtoken.ToMe', keep=0.5)))
