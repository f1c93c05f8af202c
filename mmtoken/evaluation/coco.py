"""COCO's metrics on a part of a dataset."""

import numpy as np
from mmdet.evaluation.metrics import CocoMetric as StockCocoMetric
from pycocotools import mask as rle

from mmtoken.registry import METRICS


@METRICS.register_module()
class CocoMetric(StockCocoMetric):
    """mmdet's ``CocoMetric``, which scores the pictures that were run; the tools put it in upstream's place.

    A dataset may hold a part of those in its annotation file (``indices``). Upstream looks for the objects of all, and
    counts those of the rest as missed. Of a model that finds nothing at all upstream gives no metric; here it has an
    average precision of 0.

    Args:
        *args: Those of mmdet's class.
        **kwargs: Those of mmdet's class.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Returns the metrics.

        Args:
            results (list): What mmdet keeps of each picture: truth and prediction.
        """
        self.img_ids = sorted({prediction['img_id'] for _, prediction in results})
        if not any(len(prediction['scores']) for _, prediction in results):
            truth, prediction = results[0]
            results = [(truth, _nothing(truth, prediction)), *results[1:]]
        return super().compute_metrics(results)


def _nothing(truth: dict, prediction: dict) -> dict:
    """One box and mask without area and score in place of none, which fits no object."""
    nothing = dict(bboxes=np.zeros((1, 4)), scores=np.zeros(1), labels=np.zeros(1, int), mask_scores=np.zeros(1))
    nothing['masks'] = [rle.encode(np.zeros((truth['height'], truth['width']), np.uint8, order='F'))]
    return prediction | {key: value for key, value in nothing.items() if key in prediction}
