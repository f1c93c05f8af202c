# Cropr, tuned with the whole detector, with a rate drawn for each batch, from queries that have learned on the detector
# as it was.
_base_ = './cropr-rates_dinov2-s14_retinanet-ft_bccd-672x504.py'
load_from = 'checkpoints/cropr-rates_dinov2-s14_retinanet_bccd-672x504.pth'
