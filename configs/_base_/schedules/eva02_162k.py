# Cropr's schedule for EVA-02-L on ADE20K: 64 epochs of batch 8, one learning rate for all, no warm-up.
_base_ = 'mmseg::_base_/schedules/schedule_160k.py'
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-5, betas=(0.9, 0.999), weight_decay=0.05),
)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=161728, by_epoch=False)]
train_cfg = dict(max_iters=161728)
randomness = dict(seed=0)
default_hooks = dict(iter_seed=dict(type='mmtoken.IterSeedHook'))
