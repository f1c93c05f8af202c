# Dense: DPT ViT-B/16 for depth; 40x30 = 1200 tokens.
_base_ = [
    '../_base_/models/dpt-depth_vit-b16.py',
    '../_base_/datasets/nyu.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_25k.py',
]
model = dict(data_preprocessor=dict(size=(480, 640)))
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
default_hooks = dict(checkpoint=dict(save_best='rmse', rule='less', max_keep_ckpts=1))
