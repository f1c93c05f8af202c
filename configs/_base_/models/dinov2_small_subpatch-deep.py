# As dinov2_small_subpatch.py, with a 1x1 FCN head after blocks 2, 5 and 8, one prediction a patch, for early exits.
_base_ = './dinov2_small_subpatch.py'
exit_head = dict(
    type='FCNHead',
    in_channels=384,
    channels=256,
    num_convs=1,
    kernel_size=1,
    concat_input=False,
    dropout_ratio=0.0,
    norm_cfg=dict(type='BN'),
    num_classes=2,
    align_corners=False,
    loss_decode=dict(type='CrossEntropyLoss', class_weight=[1.0, 2.5], reduction='sum', loss_weight=1e-6),
)
model = dict(
    backbone=dict(out_indices=(2, 5, 8, 11)),
    decode_head=dict(in_index=3),
    auxiliary_head=[dict(in_index=i, **exit_head) for i in range(3)],
)
