# ToMe merges half of the tokens in the first eight blocks.
_base_ = '../baselines/dinov2-s14_mask-rcnn_minicoco-448x448.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.5, layers=list(range(8)))))
