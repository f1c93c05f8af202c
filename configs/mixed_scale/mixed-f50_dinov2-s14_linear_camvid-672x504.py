# MixedScale: fine tokens in half of the cells.
_base_ = '../baselines/dinov2-s14_linear_2k_camvid-672x504.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.MixedScale', restore='logits', fine=0.5)),
)
