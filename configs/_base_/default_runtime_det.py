# mmdet's runtime by iterations, made repeatable: the seed and IterSeedHook let a resumed run end in the weights of an
# unbroken one.
_base_ = 'mmdet::_base_/default_runtime.py'
randomness = dict(seed=0)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=200, max_keep_ckpts=1),
    iter_seed=dict(type='mmtoken.IterSeedHook'),
)
log_processor = dict(by_epoch=False)
