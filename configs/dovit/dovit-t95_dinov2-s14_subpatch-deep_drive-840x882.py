# DoViT with the exit heads of the dense model after blocks 5 and 8, threshold 0.95.
# The decode head is trained on what they let pass, from the weights of that model.
_base_ = '../baselines/dinov2-s14_subpatch-deep_drive-840x882.py'
load_from = 'checkpoints/dinov2-s14_subpatch-deep_drive-840x882.pth'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(reducer=dict(type='mmtoken.DoViT', exits=(5, 8), threshold=0.95, frozen=True)),
)
