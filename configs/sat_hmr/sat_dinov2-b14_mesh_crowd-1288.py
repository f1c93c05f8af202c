# SAT-HMR as published: three resolutions; the labels decide over the tokens in the first of 60 epochs.
_base_ = '../baselines/dinov2-b14_mesh_crowd-1288.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.SAT', guided=1 / 60, mask_padding=True)))
