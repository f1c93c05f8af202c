"""Datasets of people with meshes, and the transforms that keep pictures, people and cameras together."""

from .crowd import SyntheticCrowd
from .formatting import PackPeople
from .loading import LoadPeople
from .readers import AGORADataset, BEDLAMDataset, HumanDataset, NeuralAnnotDataset, ThreeDPWDataset
from .scale_map import MakeScaleMap
from .transforms import OccludePeople, RandomAffinePeople, RandomFlipPeople, ResizePeople

__all__ = [
    'AGORADataset',
    'BEDLAMDataset',
    'HumanDataset',
    'LoadPeople',
    'MakeScaleMap',
    'NeuralAnnotDataset',
    'OccludePeople',
    'PackPeople',
    'RandomAffinePeople',
    'RandomFlipPeople',
    'ResizePeople',
    'SyntheticCrowd',
    'ThreeDPWDataset',
]
