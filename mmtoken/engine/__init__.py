"""What training and testing need beyond mmengine: hooks, and the checks that the tools make before they start."""

from .feature_cache import FeatureCacheHook
from .hooks import IterSeedHook

__all__ = ['FeatureCacheHook', 'IterSeedHook']
