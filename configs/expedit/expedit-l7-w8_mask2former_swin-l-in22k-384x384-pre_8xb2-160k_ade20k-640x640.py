# Expedit before block 7: windows of 8×8 centres for 12×12 patches to the end of the third stage, as released.
_base_ = '../baselines/mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmtoken.Expedit',
            layer=7,
            grid=(8, 8),
            window=5,
            iterations=5,
            temperature=0.01,
            neighbors=10,
        )
    )
)
