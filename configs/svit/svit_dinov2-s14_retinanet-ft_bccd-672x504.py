# SViT: gates before blocks 3 to 11, tuned with the detector.
_base_ = '../baselines/dinov2-s14_retinanet-ft_bccd-672x504.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.SViT', skip=3)))
