# MixedScale: a linear head on the coarse tokens after three blocks chooses 40 % of the cells.
_base_ = '../baselines/dinov2-s14_subpatch_drive-840x882.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(
        reducer=dict(type='mmtoken.MixedScale', restore='logits', fine=0.4, selector=dict(type='coarse', blocks=3))
    ),
)
