# Dense, deeply supervised, tuned end to end: 300 steps of 8 pictures. DToP and DoViT are tuned by the same schedule.
_base_ = [
    '../_base_/models/dinov2_small_fcn-deep.py',
    '../_base_/datasets/camvid_336x252.py',
    '../_base_/default_runtime.py',
    '../_base_/schedules/finetune_300.py',
]
model = dict(data_preprocessor=dict(size=(252, 336)), backbone=dict(frozen=False))
