"""What OpenMMLab needs around the hosts: segmentors that know a token state."""

import importlib.util

__all__ = []

if importlib.util.find_spec('mmseg'):
    from .segmentors import TokenEncoderDecoder

    __all__ += ['TokenEncoderDecoder']
