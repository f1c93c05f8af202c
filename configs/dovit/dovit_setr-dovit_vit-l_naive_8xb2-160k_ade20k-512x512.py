# DoViT: tokens may leave before blocks 6, 12 and 18; the auxiliary heads decide.
_base_ = '../baselines/setr-dovit_vit-l_naive_8xb2-160k_ade20k-512x512.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.DoViT', threshold=0.98, low=0.02, aggregate=0.1)),
)
