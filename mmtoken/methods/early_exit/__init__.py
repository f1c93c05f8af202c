"""The engine of methods whose tokens leave the backbone early; no method itself."""

from .engine import EarlyExit, Exits
from .heads import Attention, Map, Pointwise, kind_of

__all__ = ['Attention', 'EarlyExit', 'Exits', 'Map', 'Pointwise', 'kind_of']
