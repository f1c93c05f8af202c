# ToMe on the tuned Mask R-CNN: half of the tokens are merged in the first eight blocks.
_base_ = '../baselines/dinov2-s14_mask-rcnn-ft_minicoco-448x448.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.5, layers=list(range(8)))))
