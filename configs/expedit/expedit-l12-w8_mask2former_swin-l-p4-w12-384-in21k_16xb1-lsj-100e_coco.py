# Expedit before block 12: windows of 8×8 centres for 12×12 patches to the end of the third stage, as released.
_base_ = '../baselines/mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmtoken.Expedit',
            layer=12,
            grid=(8, 8),
            window=11,
            iterations=5,
            temperature=0.01,
            neighbors=60,
        )
    )
)
