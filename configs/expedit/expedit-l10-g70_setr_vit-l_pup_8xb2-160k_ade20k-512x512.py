# Expedit before block 10 of 24, 0.7 of each side: the share that the paper takes for Segmenter ViT-L.
_base_ = 'mmseg::setr/setr_vit-l_pup_8xb2-160k_ade20k-512x512.py'
model = dict(
    backbone=dict(type='mmtoken.TokenVisionTransformer', reducer=dict(type='mmtoken.Expedit', layer=10, grid=0.7))
)
