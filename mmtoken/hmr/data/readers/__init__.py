"""Readers of annotated datasets, which give the people of a picture before its camera."""

from .human_data import HumanDataset
from .neural_annot import NeuralAnnotDataset
from .prepared import AGORADataset, BEDLAMDataset
from .threedpw import ThreeDPWDataset

__all__ = ['AGORADataset', 'BEDLAMDataset', 'HumanDataset', 'NeuralAnnotDataset', 'ThreeDPWDataset']
