"""Datasets and transforms that OpenMMLab lacks."""

import importlib.util

from .camvid import CamVidDataset
from .depth import BottomCrop, KITTIDepthDataset
from .kept import KeptDataset
from .loading import LoadDepth, LoadImage, LoadLabels
from .transforms import ResizeLabels

__all__ = [
    'BottomCrop',
    'CamVidDataset',
    'KITTIDepthDataset',
    'KeptDataset',
    'LoadDepth',
    'LoadImage',
    'LoadLabels',
    'ResizeLabels',
]

if importlib.util.find_spec('mmdet'):
    from .coco import CocoDataset

    __all__ += ['CocoDataset']
