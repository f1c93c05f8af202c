# Ablation of the paper: background leaves.
_base_ = './sat_dinov2-b14_mesh_crowd-1288.py'
model = dict(backbone=dict(reducer=dict(discard=True)))
