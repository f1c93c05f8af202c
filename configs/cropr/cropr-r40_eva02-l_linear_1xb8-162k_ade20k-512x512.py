# Cropr as published: 40 tokens fewer after each of 22 blocks, 1025 to 144, all of them back for the last one.
_base_ = '../baselines/eva02-l_linear_1xb8-162k_ade20k-512x512.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.Cropr', keep=143 / 1024, multiple=8, num_classes=150)),
)
