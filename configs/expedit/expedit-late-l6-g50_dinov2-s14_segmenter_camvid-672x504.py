# Expedit, late: the mask transformer runs on 432 tokens too, and its logits are restored.
_base_ = '../baselines/dinov2-s14_segmenter_1k_camvid-672x504.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.Expedit', layer=6, grid=0.5, restore='late')),
)
custom_hooks = []  # kept features would not say how to restore them
