"""What training and testing need beyond mmengine: hooks, checks before any work starts, one-line errors."""

from .bf16 import BF16OptimWrapper
from .feature_cache import FeatureCacheHook
from .hooks import GuardHook, IterSeedHook
from .layer_decay import LayerDecayOptimWrapperConstructor
from .token_stats import TokenStatsHook

__all__ = [
    'BF16OptimWrapper',
    'FeatureCacheHook',
    'GuardHook',
    'IterSeedHook',
    'LayerDecayOptimWrapperConstructor',
    'TokenStatsHook',
]
