"""Metrics that OpenMMLab lacks."""

import importlib.util

from .class_iou import ClassIoUMetric
from .depth import DepthMetric

__all__ = ['ClassIoUMetric', 'DepthMetric']

if importlib.util.find_spec('mmdet'):
    from .coco import CocoMetric

    __all__ += ['CocoMetric']
