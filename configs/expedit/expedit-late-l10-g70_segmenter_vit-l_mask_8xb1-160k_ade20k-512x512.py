# As in the paper: the mask transformer runs on the clustered tokens too, and the logits are restored.
_base_ = './expedit-l10-g70_segmenter_vit-l_mask_8xb1-160k_ade20k-512x512.py'
model = dict(type='mmtoken.TokenEncoderDecoder', backbone=dict(reducer=dict(restore='late')))
