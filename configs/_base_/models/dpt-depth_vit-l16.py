# The same on ViT-L/16, with the widths of the paper's DPT-Large.
_base_ = './dpt-depth_vit-b16.py'
model = dict(
    pretrained='pretrain/vit-l16_p16_384.pth',
    backbone=dict(embed_dims=1024, num_layers=24, num_heads=16, out_indices=(5, 11, 17, 23)),
    decode_head=dict(embed_dims=1024, post_process_channels=[256, 512, 1024, 1024]),
)
