# MixedScale, for heads that read features only: four patches share a coarse token's.
_base_ = '../baselines/dinov2-s14_subpatch_drive-840x882.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.MixedScale', fine=0.6)))
