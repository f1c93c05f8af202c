"""mmseg's IoUMetric with the values of each class."""

from mmseg.evaluation import IoUMetric

from mmtoken.registry import METRICS


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):
    """Adds what mmseg prints for each class to the results, as ``Dice.vessel``.

    Means such as ``mDice`` hide a rare class: where 10 % of the pixels are vessels, the background alone scores high.

    Args:
        **kwargs: Those of mmseg's ``IoUMetric``; ``iou_metrics`` says which values there are.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Returns the means of ``IoUMetric``, and ``<value>.<class>``, all in percent.

        Args:
            results (list): Intersection, union, predicted and true area of each class, of each picture.
        """
        metrics = super().compute_metrics(results)
        if self.format_only:
            return metrics
        areas = [sum(part) for part in zip(*results)]
        values = self.total_area_to_metrics(*areas, self.metrics, self.nan_to_num, self.beta)
        for name, each in values.items():
            if name != 'aAcc':
                for label, value in zip(self.dataset_meta['classes'], each, strict=True):
                    metrics[f'{name}.{label}'] = round(float(value) * 100, 2)
        return metrics
