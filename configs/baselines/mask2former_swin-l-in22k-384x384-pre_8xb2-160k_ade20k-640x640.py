# Dense: mmseg's Mask2Former on Swin-L, semantic segmentation; its public checkpoint serves.
_base_ = 'mmseg::mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py'
model = dict(backbone=dict(type='mmtoken.TokenSwin'))
