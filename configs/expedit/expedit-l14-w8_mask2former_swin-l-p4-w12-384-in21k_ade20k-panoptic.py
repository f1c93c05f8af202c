# Expedit before block 14: windows of 8×8 centres for 12×12 patches to the end of the third stage, as released.
_base_ = '../baselines/mask2former_swin-l-p4-w12-384-in21k_ade20k-panoptic.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmtoken.Expedit',
            layer=14,
            grid=(8, 8),
            window=7,
            iterations=4,
            temperature=0.01,
            neighbors=49,
        )
    )
)
