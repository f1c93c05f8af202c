# mmdet's runtime, made repeatable: the seed and IterSeedHook let a resumed run end in the weights of an unbroken one.
_base_ = 'mmdet::_base_/default_runtime.py'
randomness = dict(seed=0)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=2, save_best='MVE', rule='less'),
    iter_seed=dict(type='mmtoken.IterSeedHook'),
)
log_processor = dict(by_epoch=False)
