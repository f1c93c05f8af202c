# Cropr, tuned with the whole detector, with a rate drawn for each batch: one model for all rates. The auxiliary heads
# learn which class lies in each cell of 28 pixels.
_base_ = '../baselines/dinov2-s14_retinanet-ft_bccd-672x504.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmtoken.Cropr',
            keep=0.1,
            random=(0.2, 1.0),
            layers=[1, 3, 5, 7],
            num_classes=3,
            target='tokens',
            queries=(18, 24),
            norm=True,
        ),
    ),
)
