# MixedScale with fine tokens in 60 % of the cells.
_base_ = '../baselines/dinov2-s14_focus_minicoco-448x448.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.MixedScale', fine=0.6)))
