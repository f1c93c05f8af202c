# DToP: predictions may become final after blocks 9, 14 and 19. The stock model's checkpoint serves: its auxiliary
# heads decide.
_base_ = '../baselines/setr_vit-l_naive_8xb2-160k_ade20k-512x512.py'
model = dict(type='mmtoken.TokenEncoderDecoder', backbone=dict(reducer=dict(type='mmtoken.DToP', threshold=0.95)))
