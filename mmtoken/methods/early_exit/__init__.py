"""The engine of methods whose tokens leave the backbone early; no method itself."""

from .engine import EarlyExit, Exit, Exits
from .heads import Attention, DecodeHead, Kind, Map, Pointwise, kind_of

__all__ = ['Attention', 'DecodeHead', 'EarlyExit', 'Exit', 'Exits', 'Kind', 'Map', 'Pointwise', 'kind_of']
