"""The token machinery: torch only, usable without OpenMMLab."""

from .attention import attention_scores, dense_attention, ragged_attention, self_attention
from .packing import Packing
from .reducer import GridReducer, HostInfo, Reducer, ReducerSequence
from .state import Gather, Interpolate, Restore, Scatter, TokenState, WeightedSum

__all__ = [
    'Gather',
    'GridReducer',
    'HostInfo',
    'Interpolate',
    'Packing',
    'Reducer',
    'ReducerSequence',
    'Restore',
    'Scatter',
    'TokenState',
    'WeightedSum',
    'attention_scores',
    'dense_attention',
    'ragged_attention',
    'self_attention',
]
