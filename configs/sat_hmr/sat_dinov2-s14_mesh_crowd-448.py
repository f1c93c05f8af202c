# Scale-adaptive tokens. The backbone stays frozen, and so do its copies: only the scale head learns in the encoder.
_base_ = '../baselines/dinov2-s14_mesh_crowd-448.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.SAT', guided=0.3, frozen_branch=True, mask_padding=True)))
