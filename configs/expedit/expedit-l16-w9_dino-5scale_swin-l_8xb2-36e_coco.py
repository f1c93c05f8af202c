# Expedit before block 16: windows of 9×9 centres for 12×12 patches to the end of the third stage, as released.
_base_ = '../baselines/dino-5scale_swin-l_8xb2-36e_coco.py'
model = dict(
    backbone=dict(
        reducer=dict(
            type='mmtoken.Expedit',
            layer=16,
            grid=(9, 9),
            window=5,
            iterations=3,
            temperature=0.01,
            neighbors=25,
        )
    )
)
