from .reducer import MixedScale
from .selectors import BoxSelector, CoarseSelector, DetailSelector, LearnedSelector, Selector

__all__ = ['BoxSelector', 'CoarseSelector', 'DetailSelector', 'LearnedSelector', 'MixedScale', 'Selector']
