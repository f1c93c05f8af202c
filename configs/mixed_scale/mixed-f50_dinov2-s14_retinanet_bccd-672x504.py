# MixedScale with fine tokens in half of the cells; the rest of the detector reads features.
_base_ = '../baselines/dinov2-s14_retinanet_bccd-672x504.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.MixedScale', fine=0.5)))
