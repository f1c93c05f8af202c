"""Datasets of people with meshes, and the transforms that keep pictures, people and cameras together."""

from .crowd import SyntheticCrowd
from .formatting import PackPeople
from .scale_map import MakeScaleMap

__all__ = ['MakeScaleMap', 'PackPeople', 'SyntheticCrowd']
