# The same on ViT-L.
_base_ = './segmenter-dovit_vit-b16.py'
model = dict(
    pretrained='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/'
    'vit_large_p16_384_20220308-d4efb41d.pth',
    backbone=dict(embed_dims=1024, num_layers=24, num_heads=16, out_indices=(5, 11, 17, 23)),
    decode_head=dict(in_channels=1024, channels=1024, embed_dims=1024, num_heads=16),
    auxiliary_head=[{**head, 'in_channels': 1024} for head in _base_.model.auxiliary_head],
)
