# Cropr, 20 % of the tokens left after block 7; weights of cropr-rates.
_base_ = './cropr-rates_dinov2-s14_mask-rcnn-ft_minicoco-448x448.py'
model = dict(backbone=dict(reducer=dict(keep=0.2)))
