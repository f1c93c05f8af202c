# MixedScale on a public checkpoint: fine tokens in half of the cells.
_base_ = '../baselines/segmenter_vit-b_mask_8xb1-160k_ade20k-512x512.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.MixedScale', restore='logits', fine=0.5)),
)
