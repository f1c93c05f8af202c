# Expedit before block 10: windows of 8×8 centres for 12×12 patches to the end of the third stage, as released.
_base_ = '../baselines/mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmtoken.Expedit',
            layer=10,
            grid=(8, 8),
            window=7,
            iterations=5,
            temperature=0.05,
            neighbors=10,
        )
    )
)
