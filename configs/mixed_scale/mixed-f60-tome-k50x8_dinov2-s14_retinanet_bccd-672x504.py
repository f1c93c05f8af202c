# MixedScale, then ToMe merges half of what is left in the first eight blocks.
_base_ = '../baselines/dinov2-s14_retinanet_bccd-672x504.py'
model = dict(
    backbone=dict(
        reducer=[
            dict(type='mmtoken.MixedScale', fine=0.6),
            dict(type='mmtoken.ToMe', keep=0.5, layers=list(range(8))),
        ]
    )
)
