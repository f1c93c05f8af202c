# Fine-tuned: all of Mask R-CNN, from the one on frozen features, in bfloat16; 200 steps of 4 pictures.
_base_ = './dinov2-s14_mask-rcnn_minicoco-448x448.py'
load_from = 'checkpoints/dinov2-s14_mask-rcnn_minicoco-448x448.pth'
model = dict(backbone=dict(frozen=False, init_cfg=None))
optim_wrapper = dict(
    optimizer=dict(lr=1e-4),
    paramwise_cfg=dict(
        custom_keys={
            'backbone.reducer': dict(lr_mult=10.0),
            'backbone': dict(lr_mult=0.1),
            'norm': dict(decay_mult=0.0),
        }
    ),
)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=1.0, begin=0, end=200, by_epoch=False)]
train_cfg = dict(max_iters=200, val_interval=200)
custom_hooks = []  # features change
