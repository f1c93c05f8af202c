"""What training and testing need beyond mmengine: hooks, and the checks that the tools make before they start."""

from .hooks import IterSeedHook

__all__ = ['IterSeedHook']
