"""The engine of methods whose tokens leave the backbone early; no method itself."""

from .engine import EarlyExit, Exit, Exits
from .heads import Attention, Map, Pointwise, kind_of

__all__ = ['Attention', 'EarlyExit', 'Exit', 'Exits', 'Map', 'Pointwise', 'kind_of']
