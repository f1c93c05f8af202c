# The same on ViT-S.
_base_ = './segmenter-dovit_vit-b16.py'
model = dict(
    pretrained='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/'
    'vit_small_p16_384_20220308-410f6037.pth',
    backbone=dict(embed_dims=384, num_layers=12, num_heads=6),
    decode_head=dict(in_channels=384, channels=384, embed_dims=384, num_heads=6),
    auxiliary_head=[{**head, 'in_channels': 384} for head in _base_.model.auxiliary_head],
)
