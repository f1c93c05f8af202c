# DToP's base model: SegViT with a head on each exit, ViT-L, COCO-Stuff-10K.
_base_ = [
    '../_base_/models/segvit-deep_vit-l16.py',
    'mmseg::_base_/datasets/coco-stuff10k.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/schedules/segvit-deep_160k.py',
]
head = dict(num_heads=16, num_classes=171)
model = dict(
    decode_head=head,
    auxiliary_head=[{**_base_.model.auxiliary_head[0], **head}, {**_base_.model.auxiliary_head[1], **head}],
)
train_dataloader = dict(batch_size=4)
