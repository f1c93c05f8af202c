# Random tokens, 10 % left after block 7; weights of random-rates.
_base_ = './random-rates_dinov2-s14_subpatch-ft_drive-420x434.py'
model = dict(backbone=dict(reducer=dict(keep=0.1)))
