# Expedit before block 5 of 12, 0.7 of each side: the share that the paper takes for Segmenter ViT-L.
_base_ = 'mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py'
model = dict(backbone=dict(type='mmtoken.TokenBEiT', reducer=dict(type='mmtoken.Expedit', layer=5, grid=0.7)))
