# Random tokens, 60 % left after block 7; weights of random-rates.
_base_ = './random-rates_dinov2-s14_retinanet-ft_bccd-672x504.py'
model = dict(backbone=dict(reducer=dict(keep=0.6)))
