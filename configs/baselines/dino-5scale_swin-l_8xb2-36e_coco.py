# Dense: mmdet's DINO on Swin-L; its public checkpoint serves.
_base_ = 'mmdet::dino/dino-5scale_swin-l_8xb2-36e_coco.py'
model = dict(type='mmtoken.TokenDINO', backbone=dict(type='mmtoken.TokenSwin'))
