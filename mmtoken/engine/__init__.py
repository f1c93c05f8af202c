"""What training and testing need beyond mmengine: hooks, and the checks that the tools make before they start."""

from .feature_cache import FeatureCacheHook
from .hooks import IterSeedHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .token_stats import TokenStatsHook

__all__ = ['FeatureCacheHook', 'IterSeedHook', 'LayerDecayOptimWrapperConstructor', 'TokenStatsHook']
