"""Errors of depth maps."""

import torch
from mmseg.evaluation import DepthMetric as StockDepthMetric
from torch import Tensor

from mmtoken.registry import METRICS

#: Top, bottom, left and right of the part that is scored, as parts of the height and width.
CROPS = dict(
    garg_crop=(0.40810811, 0.99189189, 0.03594771, 0.96405229),  # Garg et al., ECCV 2016, arXiv 1603.04992
    eigen_crop=(0.3324324, 0.91351351, 0.0359477, 0.96405229),  # Eigen et al., NeurIPS 2014, arXiv 1406.2283
)


@METRICS.register_module()
class DepthMetric(StockDepthMetric):
    """mmseg's ``DepthMetric`` with the crops of KITTI.

    Args:
        crop_type (str, optional): ``garg_crop`` or ``eigen_crop``, or one of upstream's. Defaults to the whole map.
        depth_metrics (Sequence[str], optional): Of :attr:`METRICS`, which upstream fails on. Defaults to all of them.
        **kwargs: Those of mmseg's class.

    Raises:
        ValueError: For an unknown crop or metric.
    """

    def __init__(self, crop_type: str | None = None, depth_metrics=None, **kwargs):
        known = (None, 'nyu_crop', *CROPS)
        if crop_type not in known:
            raise ValueError(f'crop_type={crop_type!r} of DepthMetric is unknown; choose {", ".join(map(repr, known))}')
        metrics = self.METRICS if depth_metrics is None else tuple(depth_metrics)
        if unknown := set(metrics) - set(self.METRICS):
            raise ValueError(f'depth_metrics={sorted(unknown)} are unknown; choose from {", ".join(self.METRICS)}')
        super().__init__(crop_type=None if crop_type in CROPS else crop_type, **kwargs)
        self.crop_type, self.metrics = crop_type, metrics

    def _get_eval_mask(self, gt_depth: Tensor) -> Tensor:
        """Returns which pixels of a depth map ``(H, W)`` are scored, bool."""
        mask = super()._get_eval_mask(gt_depth)
        if self.crop_type not in CROPS:
            return mask
        height, width = gt_depth.shape
        top, bottom, left, right = (
            int(part * side) for part, side in zip(CROPS[self.crop_type], (height, height, width, width))
        )
        inside = torch.zeros_like(mask)
        inside[top:bottom, left:right] = True
        return mask & inside
