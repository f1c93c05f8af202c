# Scale-adaptive tokens, and the decoder tuned to them for 1,000 steps. Backbone and scale head stay as they are, so
# that the decoder learns on cached tokens.
_base_ = '../baselines/dinov2-s14_mesh-tuned_crowd-336.py'
load_from = 'work_dirs/sat_dinov2-s14_mesh_crowd-336/iter_1500.pth'
model = dict(backbone=dict(reducer=dict(type='mmtoken.SAT', confidence=0.15, frozen=True, mask_padding=True)))
