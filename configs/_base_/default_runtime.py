# mmseg's runtime, made repeatable: the seed and IterSeedHook let a resumed run end in the weights of an unbroken one.
_base_ = 'mmseg::_base_/default_runtime.py'
randomness = dict(seed=0)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=500, max_keep_ckpts=2, save_best='mIoU'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    iter_seed=dict(type='mmtoken.IterSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
)
