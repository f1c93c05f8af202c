# MixedScale with budgets drawn for each batch, then ToMe in the first eight blocks, fine-tuned together.
_base_ = '../baselines/dinov2-s14_subpatch-ft_drive-840x882.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(
        reducer=[
            dict(type='mmtoken.MixedScale', fine=0.5, random=(0.3, 0.9), restore='logits'),
            dict(type='mmtoken.ToMe', keep=0.4, layers=list(range(8))),
        ]
    ),
)
