# ToMe merges 110 tokens in each block, as far as there are.
_base_ = '../baselines/dinov2-s14_focus_minicoco-448x448.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', r=110)))
