# Dense: ViTDet with ViT-L, Mask R-CNN, 100 epochs of COCO.
# backbone.init_cfg: MAE's ViT-L, by tools/model_converters/timm.py.
_base_ = './vitdet_vit-b_mask-rcnn_64xb1-184k_coco-1024x1024.py'
model = dict(
    backbone=dict(model='samvit_large_patch16', embed_dim=1024, num_heads=16, drop_path_rate=0.4),
    neck=dict(in_channels=1024),
)
optim_wrapper = dict(paramwise_cfg=dict(layer_decay_rate=0.8))
