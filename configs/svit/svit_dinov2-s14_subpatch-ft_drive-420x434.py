# SViT: gates before blocks 3 to 11, fine-tuned with the last six blocks.
_base_ = '../baselines/dinov2-s14_subpatch-ft_drive-420x434.py'
model = dict(type='mmtoken.TokenEncoderDecoder', backbone=dict(reducer=dict(type='mmtoken.SViT', skip=3)))
