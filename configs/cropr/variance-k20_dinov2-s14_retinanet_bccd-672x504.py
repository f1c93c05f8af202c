# The tokens with the most variance go on, 20 % of them after block 7; weights of the dense model.
_base_ = './random-k20_dinov2-s14_retinanet_bccd-672x504.py'
model = dict(backbone=dict(reducer=dict(selector='variance')))
