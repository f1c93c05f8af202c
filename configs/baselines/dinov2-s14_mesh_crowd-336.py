# The small model at full resolution, without a reducer: the dense model.
_base_ = [
    '../_base_/models/human-mesh_dinov2-s14.py',
    '../_base_/datasets/synthetic_crowd_336.py',
    '../_base_/human_mesh_runtime.py',
    '../_base_/schedules/human_mesh_4000.py',
]
