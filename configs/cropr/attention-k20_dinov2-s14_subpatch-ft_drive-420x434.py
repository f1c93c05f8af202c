# Tokens by attention, 20 % left after block 7; weights of random-rates.
_base_ = './random-k20_dinov2-s14_subpatch-ft_drive-420x434.py'
model = dict(backbone=dict(reducer=dict(selector='attention')))
