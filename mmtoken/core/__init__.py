"""The token machinery: torch only, usable without OpenMMLab."""

from .attention import attention_scores, dense_attention, ragged_attention, self_attention
from .packing import Packing
from .reducer import GridReducer, HostInfo, Reducer, ReducerSequence
from .rotary import Rotation, rotary_dinov3, rotary_eva02
from .state import Gather, Interpolate, Restore, Scatter, TokenState, WeightedSum
from .windows import Windows, assign_windows, read_bias, window_attention

__all__ = [
    'Gather',
    'GridReducer',
    'HostInfo',
    'Interpolate',
    'Packing',
    'Reducer',
    'ReducerSequence',
    'Restore',
    'Rotation',
    'Scatter',
    'TokenState',
    'WeightedSum',
    'Windows',
    'assign_windows',
    'attention_scores',
    'dense_attention',
    'ragged_attention',
    'read_bias',
    'rotary_dinov3',
    'rotary_eva02',
    'self_attention',
    'window_attention',
]
