"""Datasets and transforms that OpenMMLab lacks."""

from .camvid import CamVidDataset
from .loading import LoadImage, LoadLabels
from .transforms import ResizeLabels

__all__ = ['CamVidDataset', 'LoadImage', 'LoadLabels', 'ResizeLabels']
