# ToMe, tuned with the whole detector: half of the tokens are merged in the first eight blocks.
_base_ = '../baselines/dinov2-s14_retinanet-ft_bccd-672x504.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', keep=0.5, layers=list(range(8)))))
