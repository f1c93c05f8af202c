# SAT-HMR as published, on AGORA and BEDLAM.
_base_ = '../baselines/dinov2-b14_mesh_agora-bedlam-1288.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.SAT', guided=1 / 60, mask_padding=True)))
