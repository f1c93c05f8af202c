# Random tokens go on, tuned with a rate drawn for each batch: what Cropr has to beat.
_base_ = '../baselines/dinov2-s14_mask-rcnn-ft_minicoco-448x448.py'
model = dict(
    backbone=dict(
        reducer=dict(type='mmtoken.Cropr', keep=0.1, random=(0.2, 1.0), layers=[1, 3, 5, 7], selector='random')
    ),
)
