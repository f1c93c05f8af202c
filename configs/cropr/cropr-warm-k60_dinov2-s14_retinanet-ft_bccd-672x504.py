# Cropr, 60 % of the tokens left after block 7; weights of cropr-warm-rates.
_base_ = './cropr-warm-rates_dinov2-s14_retinanet-ft_bccd-672x504.py'
model = dict(backbone=dict(reducer=dict(keep=0.6)))
