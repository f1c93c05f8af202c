# MixedScale with a fitted selector, then ToMe in the next six blocks.
_base_ = '../baselines/dinov2-s14_subpatch_drive-1120x1176.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(
        reducer=[
            dict(type='mmtoken.MixedScale', restore='logits', fine=0.4, selector=dict(type='coarse', blocks=3)),
            dict(type='mmtoken.ToMe', keep=0.5, layers=list(range(3, 9))),
        ]
    ),
)
