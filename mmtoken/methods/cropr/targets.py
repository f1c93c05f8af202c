"""What Cropr's auxiliary heads learn to predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def label_map(target: Any) -> Tensor:
    """Returns the label map ``(1, H, W)`` of a data sample of mmseg, or of mmdet, which names it otherwise."""
    return target.gt_sem_seg.sem_seg if 'sem_seg' in target.gt_sem_seg else target.gt_sem_seg.data


def patch_labels(
    targets: Sequence[Any], shape: tuple[int, int], span: tuple[int, int], ignore: int, rare: Sequence[int] = ()
) -> Tensor:
    """Returns the class in each cell of a grid over the picture ``(B, h, w)``, int64.

    It is that of one pixel, by nearest interpolation, unless the cell holds a pixel of a rare class.

    Args:
        targets (Sequence): Data samples with ``gt_sem_seg``, maps ``(1, H, W)``.
        shape (tuple[int, int]): ``(h, w)``.
        span (tuple[int, int]): Pixels down and across that the grid covers; pixels beyond the map are ignored.
        ignore (int): Label of ignored pixels.
        rare (Sequence[int]): Rare classes; of several in one cell the first counts. Defaults to none.
    """
    labels = torch.stack([label_map(target) for target in targets]).float()
    below, right = (max(side - size, 0) for side, size in zip(span, labels.shape[-2:]))
    labels = F.pad(labels, (0, right, 0, below), value=ignore)
    cells = F.interpolate(labels, shape, mode='nearest')
    for kind in reversed(rare):
        cells = cells.masked_fill(F.adaptive_max_pool2d((labels == kind).float(), shape) > 0, kind)
    return cells[:, 0].long()


def image_labels(targets: Sequence[Any], num_classes: int, device: torch.device) -> Tensor:
    """Returns which classes occur in each picture ``(B, classes)``, 0 or 1, fp32.

    Args:
        targets (Sequence): Data samples with ``gt_instances`` or ``gt_sem_seg``.
        num_classes (int): Number of classes; other labels are left out.
        device (torch.device): Of the result.
    """
    found = torch.zeros(len(targets), num_classes, device=device)
    for row, target in zip(found, targets):
        labels = target.gt_instances.labels if 'gt_instances' in target else label_map(target).unique()
        labels = labels.to(device).long()
        row[labels[(labels >= 0) & (labels < num_classes)]] = 1
    return found


def instance_labels(
    targets: Sequence[Any], shape: tuple[int, int], span: tuple[int, int], background: int, ignore: int, device: Any
) -> Tensor:
    """Returns the class of the smallest instance that covers the centre of each cell ``(B, h, w)``, int64.

    Masks decide where there are any, else boxes.

    Args:
        targets (Sequence): Data samples with ``gt_instances``, and with ``img_shape`` among their meta information.
        shape (tuple[int, int]): Cells ``(h, w)`` of a grid over the picture.
        span (tuple[int, int]): Pixels down and across that the grid covers.
        background (int): Label where no instance is.
        ignore (int): Label of cells outside the picture, which is padded at the bottom and on the right.
        device (torch.device): Of the result.
    """
    y, x = ((torch.arange(n, device=device) + 0.5) * (side / n) for n, side in zip(shape, span))
    maps = []
    for target in targets:
        instances = target.gt_instances
        boxes = getattr(instances.bboxes, 'tensor', instances.bboxes).to(device).float()
        left, top, right, bottom = boxes[:, :, None, None].unbind(1)
        inside = (x >= left) & (x < right) & (y[:, None] >= top) & (y[:, None] < bottom)
        if 'masks' in instances and len(boxes):
            masks = torch.as_tensor(instances.masks.to_ndarray(), device=device)
            rows, columns = (c.long().clamp(max=side - 1) for c, side in zip((y, x), masks.shape[1:]))
            inside = inside & masks[:, rows[:, None], columns].bool()
        area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[:, None, None].expand(-1, *shape)
        area = torch.cat([area.masked_fill(~inside, torch.inf), area.new_full((1, *shape), 3e38)])
        classes = torch.cat([instances.labels.to(device).long(), torch.tensor([background], device=device)])
        label = classes[area.argmin(0)]
        height, width = target.metainfo.get('img_shape', span)[:2]
        maps.append(label.masked_fill((y[:, None] >= height) | (x >= width), ignore))
    return torch.stack(maps)
