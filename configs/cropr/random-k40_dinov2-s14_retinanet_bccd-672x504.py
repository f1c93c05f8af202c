# Random tokens go on, 40 % of them after block 7: what Cropr has to beat; weights of the dense model.
_base_ = '../baselines/dinov2-s14_retinanet_bccd-672x504.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Cropr', keep=0.4, layers=[1, 3, 5, 7], selector='random')))
