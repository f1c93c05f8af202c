# Cropr, tuned with the whole of Mask R-CNN, with a rate drawn for each batch: one model for all rates. The auxiliary
# heads learn which class lies in each patch, from the masks.
_base_ = '../baselines/dinov2-s14_mask-rcnn-ft_minicoco-448x448.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmtoken.Cropr',
            keep=0.1,
            random=(0.2, 1.0),
            layers=[1, 3, 5, 7],
            num_classes=12,
            target='tokens',
            queries=32,
            norm=True,
        ),
    ),
)
