# MixedScale, then ToMe merges down to 40 % of what is left in the first eight blocks.
_base_ = '../baselines/dinov2-s14_subpatch_drive-1120x1176.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(
        reducer=[
            dict(type='mmtoken.MixedScale', restore='logits', fine=0.6),
            dict(type='mmtoken.ToMe', keep=0.4, layers=list(range(8))),
        ]
    ),
)
