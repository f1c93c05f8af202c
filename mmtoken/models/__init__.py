"""Models around the hosts: segmentors and detectors that serve reducers, and heads and necks that upstream lacks."""

import importlib.util

__all__ = []

if importlib.util.find_spec('mmcv'):
    from .necks import LayerNorm2d, SimpleFPN

    __all__ += ['LayerNorm2d', 'SimpleFPN']

if importlib.util.find_spec('mmseg'):
    from .heads import ATMHead, ATMLoss, ATMSingleHead, DeconvHead, DPTDepthHead, SubPatchHead
    from .segmentors import TokenDepthEstimator, TokenEncoderDecoder

    __all__ += ['ATMHead', 'ATMLoss', 'ATMSingleHead', 'DPTDepthHead', 'DeconvHead', 'SubPatchHead']
    __all__ += ['TokenDepthEstimator', 'TokenEncoderDecoder']

if importlib.util.find_spec('mmdet'):
    from . import detectors
    from .detectors import *  # noqa: F403

    __all__ += detectors.__all__
