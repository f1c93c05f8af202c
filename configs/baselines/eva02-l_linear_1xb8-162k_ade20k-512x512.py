# Dense: EVA-02-L with a linear head, fine-tuned as in the Cropr paper.
# backbone.init_cfg: eva02_large_patch14_224.mim_m38m at patch 16 and 512 pixels, by tools/model_converters/timm.py.
_base_ = [
    '../_base_/models/eva02_large_linear.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/eva02_162k.py',
]
train_dataloader = dict(batch_size=8)
