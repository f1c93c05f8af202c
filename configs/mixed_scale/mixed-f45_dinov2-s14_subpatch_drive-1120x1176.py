# MixedScale: fine tokens in the 45 % of the cells with most edges.
_base_ = '../baselines/dinov2-s14_subpatch_drive-1120x1176.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.MixedScale', restore='logits', fine=0.45)),
)
