"""The token machinery: torch only, usable without OpenMMLab."""

from .attention import dense_attention, ragged_attention, self_attention
from .reducer import HostInfo, Reducer, ReducerSequence
from .state import Gather, Interpolate, Restore, Scatter, TokenState, WeightedSum

__all__ = [
    'Gather', 'HostInfo', 'Interpolate', 'Reducer', 'ReducerSequence', 'Restore', 'Scatter', 'TokenState',
    'WeightedSum', 'dense_attention', 'ragged_attention', 'self_attention'
]
