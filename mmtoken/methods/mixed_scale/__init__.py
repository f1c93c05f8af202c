from .reducer import MixedScale, Mixture
from .selectors import BoxSelector, CoarseSelector, DetailSelector, LearnedSelector, Selector, fit_linear

__all__ = [
    'BoxSelector',
    'CoarseSelector',
    'DetailSelector',
    'LearnedSelector',
    'MixedScale',
    'Mixture',
    'Selector',
    'fit_linear',
]
