from .reducer import SAT
from .scale_map import covered_scales, scale_targets

__all__ = ['SAT', 'covered_scales', 'scale_targets']
