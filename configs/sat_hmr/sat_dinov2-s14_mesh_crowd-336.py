# Scale-adaptive tokens. Backbone and scale head stay as they are, so that the decoder learns on cached tokens. Of the
# first step's checkpoint only the backbone is read: its decoder never learned.
_base_ = '../baselines/dinov2-s14_mesh_crowd-336.py'
model = dict(
    backbone=dict(
        reducer=dict(type='mmtoken.SAT', confidence=0.15, frozen=True, mask_padding=True),
        init_cfg=dict(
            checkpoint='work_dirs/sat-scale-head_dinov2-s14_mesh_crowd-336/iter_1500.pth', prefix='backbone.'
        ),
    )
)
