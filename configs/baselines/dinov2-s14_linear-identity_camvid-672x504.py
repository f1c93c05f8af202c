# Expedit that reduces nothing: what the mechanism itself costs.
_base_ = './dinov2-s14_linear_2k_camvid-672x504.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=1.0)))
