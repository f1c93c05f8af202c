# SegViT with ViT-L.
_base_ = './segvit_vit-b16.py'
model = dict(
    pretrained='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/'
    'vit_large_p16_384_20220308-d4efb41d.pth',
    backbone=dict(embed_dims=1024, num_layers=24, num_heads=16, out_indices=(7, 15, 23), drop_path_rate=0.3),
    decode_head=dict(in_channels=[1024] * 3, channels=512, num_heads=16),
)
