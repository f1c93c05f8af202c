# Scale-adaptive tokens. Backbone and scale head stay as they are, so that the decoder learns on cached tokens.
_base_ = '../baselines/dinov2-s14_mesh_crowd-336.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.SAT', frozen=True, mask_padding=True)))
load_from = 'work_dirs/sat-scale-head_dinov2-s14_mesh_crowd-336/iter_300.pth'
