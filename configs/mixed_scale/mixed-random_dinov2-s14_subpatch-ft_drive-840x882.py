# MixedScale, fine-tuned with a budget drawn for each batch: one model for all of them.
_base_ = '../baselines/dinov2-s14_subpatch-ft_drive-840x882.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.MixedScale', fine=0.5, random=(0.15, 0.9), restore='logits')),
)
