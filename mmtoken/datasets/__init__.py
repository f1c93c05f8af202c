"""Datasets and transforms that OpenMMLab lacks."""

from .camvid import CamVidDataset
from .transforms import ResizeLabels

__all__ = ['CamVidDataset', 'ResizeLabels']
