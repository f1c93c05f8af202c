# One resolution, 1288 pixels: the dense model.
_base_ = [
    '../_base_/models/sat-hmr_dinov2-b14.py',
    '../_base_/datasets/synthetic_crowd_1288.py',
    '../_base_/human_mesh_runtime.py',
    '../_base_/schedules/sat-hmr_60e.py',
]
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1))
log_processor = dict(by_epoch=True)
