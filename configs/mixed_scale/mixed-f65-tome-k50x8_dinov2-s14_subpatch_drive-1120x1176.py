# MixedScale, then ToMe merges half of what is left in the first eight blocks.
_base_ = '../baselines/dinov2-s14_subpatch_drive-1120x1176.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(
        reducer=[
            dict(type='mmtoken.MixedScale', restore='logits', fine=0.65),
            dict(type='mmtoken.ToMe', keep=0.5, layers=list(range(8))),
        ]
    ),
)
