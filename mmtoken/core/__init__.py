"""The token machinery: torch only, usable without OpenMMLab."""

from .attention import attention_scores, dense_attention, ragged_attention, self_attention
from .grid_reducer import GridReducer
from .host import TokenHost
from .layout import Layout
from .packing import Packing
from .reducer import Cost, HostInfo, Reducer, ReducerSequence, Stage
from .registry import REDUCERS, build_reducer, method_of
from .restores import Gather, Interpolate, Restore, Scatter, WeightedSum
from .rotary import Rotation, rotary_dinov3, rotary_eva02
from .state import Reduction, TokenState
from .tokens import Tokens
from .windows import (
    Windows,
    assign_windows,
    partition,
    read_bias,
    token_attention,
    unpartition,
    window_attention,
)

__all__ = [
    'REDUCERS',
    'Cost',
    'Gather',
    'GridReducer',
    'HostInfo',
    'Interpolate',
    'Layout',
    'Packing',
    'Reducer',
    'ReducerSequence',
    'Reduction',
    'Restore',
    'Rotation',
    'Scatter',
    'Stage',
    'TokenHost',
    'TokenState',
    'Tokens',
    'WeightedSum',
    'Windows',
    'assign_windows',
    'attention_scores',
    'build_reducer',
    'dense_attention',
    'method_of',
    'partition',
    'ragged_attention',
    'read_bias',
    'rotary_dinov3',
    'rotary_eva02',
    'self_attention',
    'token_attention',
    'unpartition',
    'window_attention',
]
