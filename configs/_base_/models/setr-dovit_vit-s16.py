# The same on ViT-S.
_base_ = './setr-dovit_vit-b16.py'
model = dict(
    backbone=dict(embed_dims=384, num_heads=6, init_cfg=dict(checkpoint='pretrain/vit_small_p16.pth')),
    decode_head=dict(in_channels=384),
    auxiliary_head=[{**head, 'in_channels': 384} for head in _base_.model.auxiliary_head],
)
