"""COCO's metrics on a part of a dataset."""

from mmdet.evaluation.metrics import CocoMetric as StockCocoMetric

from mmtoken.registry import METRICS


@METRICS.register_module()
class CocoMetric(StockCocoMetric):
    """mmdet's ``CocoMetric``, which scores the pictures that were run; the tools put it in upstream's place.

    A dataset may hold a part of those in its annotation file (``indices``). Upstream looks for the objects of all, and
    counts those of the rest as missed.

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
        return super().compute_metrics(results)
