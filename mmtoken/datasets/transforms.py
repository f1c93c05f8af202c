"""Transforms that OpenMMLab lacks."""

import cv2
from mmcv.transforms import BaseTransform

from mmtoken.registry import TRANSFORMS


@TRANSFORMS.register_module()
class ResizeLabels(BaseTransform):
    """Resizes the label map alone, to the nearest pixel.

    Heads that are trained on frozen features learn from one label a token at a fraction of the cost of upsampled
    logits.

    Args:
        scale (tuple[int, int]): Width and height in pixels, such as those of the token grid.
    """

    def __init__(self, scale: tuple[int, int]):
        self.scale = tuple(scale)

    def transform(self, results: dict) -> dict:
        """Resizes every map of ``results['seg_fields']``, ``(H, W)``, uint8."""
        for key in results.get('seg_fields', []):
            results[key] = cv2.resize(results[key], self.scale, interpolation=cv2.INTER_NEAREST_EXACT)
        return results
