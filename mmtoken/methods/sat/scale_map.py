"""What the scale head of SAT learns: for each cell, whether it matters and how large what it shows is."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtoken.methods.mixed_scale.cells import Cells
from mmtoken.methods.mixed_scale.selectors import impurity


def covered_scales(boxes: list[Tensor], cells: Cells, patch: int, longest: int) -> Tensor:
    """Draws boxes onto the cells; where several overlap, the smallest counts.

    The scale of a box is its diagonal over the longest side of the picture, at most 1 (arXiv 2411.19824, section 3.2).

    Args:
        boxes (list[Tensor]): For each image ``(N, 4)``: left, top, right, bottom in pixels.
        cells (Cells): Cells of 2×2 patches.
        patch (int): Side of a patch in pixels.
        longest (int): Longest side of the picture in pixels.

    Returns:
        Tensor: ``(B, 2, h·w)``, fp32: 1 inside of a box and 0 elsewhere; and the scale there.
    """
    h, w = cells.shape
    maps = torch.zeros(len(boxes), 2, h, w, device=cells.device)
    for b, some in enumerate(boxes):
        some = some.to(cells.device).float()
        scales = ((some[:, 2:] - some[:, :2]).norm(dim=1) / longest).clamp(max=1)
        for i in scales.argsort(descending=True).tolist():
            left, top, right, bottom = (some[i] / (2 * patch)).tolist()
            rows = slice(max(int(top), 0), max(-int(-bottom // 1), 0))
            columns = slice(max(int(left), 0), max(-int(-right // 1), 0))
            maps[b, 0, rows, columns], maps[b, 1, rows, columns] = 1, scales[i]
    return maps.flatten(2)


def scale_targets(targets: list, cells: Cells, patch: int, longest: int) -> Tensor | None:
    """Returns the maps ``(B, 2, h·w)`` that data samples give, fp32; None if they give none.

    That is ``gt_scale_map`` if there is one (people), the boxes of ``gt_instances`` (detection), or, for semantic
    segmentation, small things where a cell holds several classes.
    """
    if targets and all('gt_scale_map' in target for target in targets):
        maps = [target.gt_scale_map.data.to(cells.device).float() for target in targets]
        h, w = cells.shape  # a picture's own map is smaller than that of a padded batch
        return torch.stack([F.pad(one, (0, w - one.shape[-1], 0, h - one.shape[-2])).flatten(1) for one in maps])
    if targets and all('gt_instances' in target for target in targets):
        boxes = [getattr(target.gt_instances.bboxes, 'tensor', target.gt_instances.bboxes) for target in targets]
        return covered_scales(boxes, cells, patch, longest)
    if targets and all('gt_sem_seg' in target for target in targets):
        labels = torch.cat([target.gt_sem_seg.data for target in targets]).to(cells.device)
        down, across = (2 * patch * n - side for n, side in zip(cells.shape, labels.shape[1:]))
        mixed = impurity(F.pad(labels, (0, max(across, 0), 0, max(down, 0)), value=255), cells, patch) > 0
        return torch.stack([mixed.float(), torch.zeros_like(mixed, dtype=torch.float32)], dim=1)
    return None


def focal_loss(prob: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss on probabilities (arXiv 1708.02002, eq. 5), mean over all entries."""
    right = torch.where(target > 0, prob, 1 - prob)
    weight = torch.where(target > 0, alpha, 1 - alpha)
    return (-weight * (1 - right) ** gamma * right.clamp(min=1e-8).log()).mean()
