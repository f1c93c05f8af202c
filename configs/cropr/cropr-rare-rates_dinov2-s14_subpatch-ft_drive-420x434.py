# Cropr with one query a patch, which learn whether it holds a vessel at all; a rate drawn for each batch.
_base_ = '../baselines/dinov2-s14_subpatch-ft_drive-420x434.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(
        reducer=dict(
            type='mmtoken.Cropr',
            keep=0.1,
            random=(0.2, 1.0),
            layers=[1, 3, 5, 7],
            num_classes=2,
            rare_classes=[1],
            queries=(30, 31),
            norm=True,
        )
    ),
)
