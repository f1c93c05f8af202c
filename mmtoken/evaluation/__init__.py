"""Metrics that OpenMMLab lacks."""

from .class_iou import ClassIoUMetric
from .depth import DepthMetric

__all__ = ['ClassIoUMetric', 'DepthMetric']
