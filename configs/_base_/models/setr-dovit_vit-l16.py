# The same on ViT-L.
_base_ = './setr-dovit_vit-b16.py'
model = dict(
    backbone=dict(
        embed_dims=1024,
        num_layers=24,
        num_heads=16,
        out_indices=(5, 11, 17, 23),
        init_cfg=dict(checkpoint='pretrain/vit_large_p16.pth'),
    ),
    decode_head=dict(in_channels=1024),
    auxiliary_head=[{**head, 'in_channels': 1024} for head in _base_.model.auxiliary_head],
)
