# Dense: ViTDet with ViT-B, Mask R-CNN, 100 epochs of COCO.
# backbone.init_cfg: MAE's ViT-B, by tools/model_converters/timm.py.
_base_ = ['../_base_/models/vitdet_mask-rcnn.py', '../_base_/schedules/vitdet_184k.py']
