# One resolution, 1288 pixels, on real data: the dense model.
_base_ = [
    '../_base_/models/sat-hmr_dinov2-b14.py',
    '../_base_/datasets/agora-bedlam_1288.py',
    '../_base_/human_mesh_runtime.py',
    '../_base_/schedules/sat-hmr_60e.py',
]
model = dict(body_model=dict(_delete_=True, type='SMPL', model_path='data/body_models/smpl'))
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1))
log_processor = dict(by_epoch=True)
