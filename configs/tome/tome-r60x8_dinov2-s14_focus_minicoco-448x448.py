# ToMe merges 60 tokens in each of the first eight blocks.
_base_ = '../baselines/dinov2-s14_focus_minicoco-448x448.py'
model = dict(backbone=dict(reducer=dict(type='mmtoken.ToMe', r=60, layers=list(range(8)))))
