# Cropr with a query a patch, 40 % of the tokens left after block 7; weights of cropr-rare-rates.
_base_ = './cropr-rare-rates_dinov2-s14_subpatch-ft_drive-420x434.py'
model = dict(backbone=dict(reducer=dict(keep=0.4)))
