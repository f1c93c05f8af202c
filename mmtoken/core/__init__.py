"""The token machinery: torch only, usable without OpenMMLab."""

from .attention import attention_scores, dense_attention, ragged_attention, self_attention
from .grid_reducer import GridReducer
from .host import TokenHost
from .layout import Layout
from .packing import Packing
from .reducer import Cost, HostInfo, Reducer, ReducerSequence
from .registry import REDUCERS, build_reducer, method_of
from .restores import Gather, Interpolate, Restore, Scatter, WeightedSum
from .state import Reduction, TokenState

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
    'Scatter',
    'TokenHost',
    'TokenState',
    'WeightedSum',
    'attention_scores',
    'build_reducer',
    'dense_attention',
    'method_of',
    'ragged_attention',
    'self_attention',
]
