# The tokens that the class token attends to most go on, 40 % of them after block 7; weights of random-rates.
_base_ = './random-k40_dinov2-s14_mask-rcnn-ft_minicoco-448x448.py'
model = dict(backbone=dict(reducer=dict(selector='attention')))
