# ToMe down to half of the tokens.
_base_ = 'mmseg::vit/vit_vit-b16-ln_mln_upernet_8xb2-160k_ade20k-512x512.py'
model = dict(backbone=dict(type='mmtoken.TokenVisionTransformer', reducer=dict(type='mmtoken.ToMe', keep=0.5)))
