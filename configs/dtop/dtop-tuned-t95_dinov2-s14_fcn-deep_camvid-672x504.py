# As dtop-prop-t95, with a decode head that was trained on what the exits leave, from the weights of the deeply
# supervised model: --cfg-options load_from=….
_base_ = '../baselines/dinov2-s14_fcn-deep_camvid-672x504.py'
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    backbone=dict(
        reducer=dict(
            type='mmtoken.DToP', exits=(5, 8), threshold=0.95, keep_per_class=30, proportional=True, frozen=True)))
