# DToP: predictions may become final after blocks 3, 6 and 9; the auxiliary heads decide.
_base_ = '../baselines/setr_vit-b_naive_8xb2-160k_ade20k-512x512.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.DToP', threshold=0.95)))
