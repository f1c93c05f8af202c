"""Datasets that OpenMMLab lacks."""

from .camvid import CamVidDataset

__all__ = ['CamVidDataset']
