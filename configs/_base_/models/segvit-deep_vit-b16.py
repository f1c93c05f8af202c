# The deeply supervised SegViT of DToP (arXiv 2308.01045): a head of its own on each of three taps, all weighted 1.
_base_ = './segvit_vit-b16.py'
head = dict(
    type='mmtoken.ATMSingleHead',
    in_channels=768,
    channels=384,
    num_layers=3,
    num_heads=6,
    num_classes=150,
    align_corners=False,
    loss_decode=dict(type='mmtoken.ATMLoss'),
)
model = dict(
    decode_head=dict(_delete_=True, in_index=2, **head),
    auxiliary_head=[dict(in_index=0, **head), dict(in_index=1, **head)],
)
