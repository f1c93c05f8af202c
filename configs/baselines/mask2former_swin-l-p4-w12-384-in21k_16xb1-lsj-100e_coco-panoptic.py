# Dense: mmdet's Mask2Former on Swin-L, panoptic segmentation; its public checkpoint serves.
_base_ = 'mmdet::mask2former/mask2former_swin-l-p4-w12-384-in21k_16xb1-lsj-100e_coco-panoptic.py'
model = dict(type='mmtoken.TokenMask2Former', backbone=dict(type='mmtoken.TokenSwin'))
