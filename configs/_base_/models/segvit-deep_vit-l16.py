# The deeply supervised SegViT of DToP with ViT-L.
_base_ = './segvit_vit-l16.py'
head = dict(
    type='mmtoken.ATMSingleHead',
    in_channels=1024,
    channels=512,
    num_layers=3,
    num_heads=8,
    num_classes=150,
    align_corners=False,
    loss_decode=dict(type='mmtoken.ATMLoss'),
)
model = dict(
    decode_head=dict(_delete_=True, in_index=2, **head),
    auxiliary_head=[dict(in_index=0, **head), dict(in_index=1, **head)],
)
