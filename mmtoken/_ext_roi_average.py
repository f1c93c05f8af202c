"""RoIAlign in average mode in plain torch, for :mod:`mmtoken._ext_standin` where torchvision has no kernels.

The points that a bin averages lie on a grid, and a bilinear weight is the product of one along y and one along x. So
the average is two small matrix products, ``Y · crop · Xᵀ``, with a row of Y or X for each row or column of bins.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def axis_weights(low: Tensor, high: Tensor, bins: int, size: int, ratio: int) -> Tensor:
    """Weight of each pixel of an axis in each bin of each RoI ``(R, bins, size)``.

    Args:
        low: ``(R,)`` where each RoI begins, in pixels of the map.
        high: ``(R,)`` where it ends.
        bins: number of bins.
        size: pixels of the map along this axis; points more than one outside weigh nothing.
        ratio: points of a bin; 0: one for each pixel that it covers.
    """
    width = ((high - low) / bins)[:, None]
    points = torch.full_like(width, ratio) if ratio > 0 else width.ceil().clamp(min=0)
    number = torch.arange(int(points.max()), device=low.device)
    inside_bin = (number + 0.5) * width / points.clamp(min=1)
    at = low[:, None, None] + (torch.arange(bins, device=low.device) * width)[..., None] + inside_bin[:, None]
    counts = (number < points)[:, None] & (at >= -1) & (at <= size)
    share = counts / points.clamp(min=1)[..., None]
    at = at.clamp(0, size - 1)
    before = at.long()
    after = (before + 1).clamp(max=size - 1)
    weights = low.new_zeros(len(low), bins, size)
    weights.scatter_add_(2, before, share * (1 - (at - before)))
    return weights.scatter_add_(2, after, share * (at - before))


def crops(
    rois: Tensor, shape: tuple, size: tuple, scale: float, ratio: int, aligned: bool
) -> Iterator[tuple[tuple, Tensor, Tensor]]:
    """Part of the map that each RoI reads, and its weights.

    Args:
        rois: ``(R, 5)`` as image index, x1, y1, x2, y2 in pixels of the image.
        shape: of the map, ``(B, C, H, W)``.
        size: rows and columns of bins.
        scale: pixels of the map per pixel of the image.
        ratio: see :func:`axis_weights`.
        aligned: shift by half a pixel; False is the legacy, which also widens RoIs to one pixel at least.

    Yields:
        Index of a part ``(h, w, C)`` in a map ``(B, H, W, C)``, and its weights ``(bins, h)`` and ``(bins, w)``; in the
        order of the RoIs.
    """
    left, top, right, bottom = (rois[:, 1:] * scale - (0.5 if aligned else 0.0)).unbind(1)
    if not aligned:
        right, bottom = torch.maximum(right, left + 1), torch.maximum(bottom, top + 1)
    rows = axis_weights(top, bottom, size[0], shape[2], ratio)
    columns = axis_weights(left, right, size[1], shape[3], ratio)
    ends = [end for weights in (rows, columns) for end in used(weights)]
    for roi, (image, y0, y1, x0, x1) in enumerate(torch.stack([rois[:, 0].long(), *ends], 1).tolist()):
        yield (image, slice(y0, y1), slice(x0, x1)), rows[roi, :, y0:y1], columns[roi, :, x0:x1]


def used(weights: Tensor) -> tuple[Tensor, Tensor]:
    """First pixel that any bin of a RoI weighs, and the one after the last, both ``(R,)``; 0 and 0 if there is none."""
    some = (weights != 0).any(1).int()
    size = some.shape[1]
    some_at_all = some.amax(1)
    return some.argmax(1) * some_at_all, (size - some.flip(1).argmax(1)) * some_at_all


def average(x: Tensor, rois: Tensor, size: tuple, *args) -> Tensor:
    """Averages of the bins ``(R, C, *size)``; further arguments are those of :func:`crops`."""
    maps = x.permute(0, 2, 3, 1).contiguous()
    out = x.new_empty(len(rois), *size, x.shape[1])
    with torch.autocast(x.device.type, enabled=False):  # as the compiled op, which autocast does not know
        for roi, (part, rows, columns) in enumerate(crops(rois, x.shape, size, *args)):
            along_y = rows @ maps[part].flatten(1)
            torch.matmul(columns, along_y.view(size[0], columns.shape[1], x.shape[1]), out=out[roi])
    return out.permute(0, 3, 1, 2)


def average_backward(grad: Tensor, rois: Tensor, shape: tuple, size: tuple, *args) -> Tensor:
    """Gradient with respect to the map, of ``shape``, of a gradient ``(R, C, *size)`` of :func:`average`."""
    batch, channels, height, width = shape
    out = grad.new_zeros(batch, height, width, channels)
    grad = grad.permute(0, 2, 3, 1).contiguous()
    for roi, (part, rows, columns) in enumerate(crops(rois, shape, size, *args)):
        along_x = columns.t() @ grad[roi]
        out[part] += (rows.t() @ along_x.flatten(1)).view(rows.shape[1], columns.shape[1], channels)
    return out.permute(0, 3, 1, 2)
