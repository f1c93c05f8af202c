"""Stand-in for ``mmcv._ext``, loaded under that name by :mod:`mmtoken.compat` where mmcv has no compiled ops.

The functions have the compiled module's signatures, in-place output buffers included, and its conventions to the last
detail (see ``mmcv/ops/*.py`` for the callers): torchvision's ops where they load, else plain torch, on any device.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtoken._ext_deform import (  # noqa: F401
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmtoken._ext_roi_average import average, average_backward

#: RoIs whose sampling points are held at once: bounds the memory, large enough to keep the kernels busy.
_ROIS_AT_ONCE = 64


def __getattr__(name: str):
    if name.startswith('__'):
        raise AttributeError(name)

    def missing(*args, **kwargs):
        raise NotImplementedError(
            f'mmcv op `{name}` is not in mmcv-lite, and mmtoken has no stand-in for it: it comes with the compiled ops '
            'of mmcv (`pip install --no-build-isolation "mmcv>=2.1,<2.2"` in place of mmcv-lite) or of onedl-mmcv'
        )

    return missing


def get_compiler_version() -> str:
    return 'n/a'


def get_compiling_cuda_version() -> str:
    return 'n/a'


@functools.cache
def _torchvision(device: str):
    """``torch.ops.torchvision`` if its kernels run on this type of device, else None; asked on the first use only."""
    try:
        import torchvision  # noqa: F401

        box = torch.zeros(1, 4, device=device)
        torch.ops.torchvision.nms(box, box[:, 0], 0.5)
        return torch.ops.torchvision
    except Exception:  # a broken torchvision fails in many ways, and none of them matters here
        return None


def _wide(x: Tensor) -> Tensor:
    """At least fp32: half precision is widened for the arithmetic and narrowed again in the output buffer."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


# ------------------------------------------------------------------------------------------------------------- nms
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that greedy suppression keeps, by falling score.

    Args:
        boxes: ``(N, 4)`` as x1, y1, x2, y2 in pixels.
        scores: ``(N,)``.
        iou_threshold: a box goes if its IoU with a kept better one is above.
        offset: a box is ``x2 - x1 + offset`` wide.
    """
    boxes, scores = _wide(boxes), _wide(scores)
    # An offset is the same as boxes that reach as much farther.
    boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    vision = _torchvision(boxes.device.type)
    if vision is not None:
        return vision.nms(boxes, scores.to(boxes), iou_threshold)
    order = scores.sort(descending=True, stable=True).indices
    kept = order[:0]
    for block in order.split(256):
        block = block[~(_iou(boxes[kept], boxes[block]) > iou_threshold).any(0)]
        beats = (_iou(boxes[block], boxes[block]) > iou_threshold).triu(1)
        # Greedy suppression is the one fixed point of "kept = beaten by no kept one": reached from the top downwards.
        alive, before = torch.ones_like(block, dtype=torch.bool), None
        while before is None or not torch.equal(alive, before):
            alive, before = ~(beats & alive[:, None]).any(0), alive
        kept = torch.cat([kept, block[alive]])
    return kept


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes ``(N, 4)`` and ``(M, 4)`` as ``(N, M)``."""
    size = (torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])).clamp(min=0)
    inter = size[..., 0] * size[..., 1]
    area_a, area_b = ((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b))
    return inter / (area_a[:, None] + area_b[None] - inter)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    *,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Indices of the boxes in the order in which they are taken: the best one, which lowers the scores of the others.

    Args:
        boxes: ``(N, 4)`` as x1, y1, x2, y2 in pixels.
        scores: ``(N,)``.
        dets: receives in its first rows the boxes taken and the scores that they had then, ``(N, 5)``.
        iou_threshold: overlap from which methods 0 and 1 act.
        sigma: width of method 2.
        min_score: boxes whose lowered score is below are dropped.
        method: the factor is 0 (plain suppression), 1 - IoU (arXiv 1704.04503, eq. 2), or exp(-IoU² / sigma) (eq. 3).
        offset: a box is ``x2 - x1 + offset`` wide.
    """
    left = _wide(scores).clone()
    wide = _wide(boxes) + _wide(boxes).new_tensor([0, 0, offset, offset])
    there, taken = torch.ones_like(left, dtype=torch.bool), []
    while there.any():
        best = int(left.masked_fill(~there, -torch.inf).argmax())
        dets[len(taken), :4], dets[len(taken), 4] = boxes[best], left[best]
        taken.append(best)
        there[best] = False
        iou = _iou(wide[best][None], wide)[0]
        if method == 2:
            left *= (-(iou**2) / sigma).exp()
        else:
            left *= torch.where(iou >= iou_threshold, 1 - iou if method == 1 else iou.new_zeros(()), 1.0)
        there &= left >= min_score
    return torch.tensor(taken, dtype=torch.long)


def nms_match(dets: Tensor, *, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes: one that is kept, then those that it suppresses, all by falling score.

    Args:
        dets: ``(N, 5)`` as x1, y1, x2, y2, score.
        iou_threshold: IoU from which a box is suppressed.
    """
    dets = _wide(dets)
    order = dets[:, 4].sort(descending=True, stable=True).indices
    groups = []
    while len(order):
        beaten = _iou(dets[order[:1], :4], dets[order, :4])[0] >= iou_threshold
        beaten[0] = True
        groups.append(order[beaten].tolist())
        order = order[~beaten]
    return groups


# ------------------------------------------------------------------------------------------------------- roi_align
class _Samples(NamedTuple):
    """Sampling points of some RoIs; ``S`` points over all bins of all RoIs, bins in raster order."""

    rois: slice  # which RoIs
    bins: int  # number of bins, over all these RoIs
    bin: Tensor  # (S,) bin of each point
    y: Tensor  # (S,) in pixels of the feature map
    x: Tensor
    pixel: Tensor  # (S, 4) corners in the flat (B·H·W) map
    weight: Tensor  # (S, 4) bilinear weight of each corner

    def values(self, table: Tensor) -> Tensor:
        """Interpolated features ``(S, C)`` at the points."""
        return (table[self.pixel] * self.weight[..., None]).sum(1)


def _bilinear(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Corners and weights, both ``(S, 4)``, of points in a map; a point more than a pixel outside weighs nothing."""
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    axes = []
    for at, size in ((y, height), (x, width)):
        at = at.clamp(0, size - 1)
        low = at.long()
        axes.append((low, (low + 1).clamp(max=size - 1), at - low))
    (y0, y1, fy), (x0, x1, fx) = axes
    pixel = torch.stack([y0 * width + x0, y0 * width + x1, y1 * width + x0, y1 * width + x1], -1)
    weight = torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], -1)
    return pixel, weight * inside[:, None]


def _samples(rois: Tensor, shape: tuple, size: tuple, scale: float, ratio: int, aligned: bool) -> Iterator[_Samples]:
    """Points that each bin of each RoI looks at: ``ratio``² of them, or as many as the bin has pixels if 0."""
    (out_h, out_w), (height, width) = size, shape[2:]
    for start in range(0, len(rois), _ROIS_AT_ONCE):
        part = rois[start : start + _ROIS_AT_ONCE]
        left, top, right, bottom = (part[:, 1:] * scale - (0.5 if aligned else 0.0)).unbind(1)
        extent_h, extent_w = bottom - top, right - left
        if not aligned:
            extent_h, extent_w = extent_h.clamp(min=1), extent_w.clamp(min=1)
        bin_h, bin_w = extent_h / out_h, extent_w / out_w
        rows, columns = (
            (torch.full_like(b, ratio) if ratio > 0 else b.ceil().clamp(min=0)).long() for b in (bin_h, bin_w)
        )
        # Bins of different RoIs have different numbers of points: all points in one list, numbered within their RoI.
        counts = rows * columns * out_h * out_w
        roi = torch.arange(len(part), device=rois.device).repeat_interleave(counts)
        number = torch.arange(len(roi), device=rois.device) - (counts.cumsum(0) - counts)[roi]
        rows, columns, bin_h, bin_w = rows[roi], columns[roi], bin_h[roi], bin_w[roi]
        column, number = number % columns, number // columns
        row, number = number % rows, number // rows
        y = top[roi] + (number // out_w) * bin_h + (row + 0.5) * bin_h / rows
        x = left[roi] + (number % out_w) * bin_w + (column + 0.5) * bin_w / columns
        pixel, weight = _bilinear(y, x, height, width)
        pixel = pixel + (part[:, 0].long()[roi] * (height * width))[:, None]
        yield _Samples(
            slice(start, start + len(part)),
            len(part) * out_h * out_w,
            roi * (out_h * out_w) + number,
            y,
            x,
            pixel,
            weight,
        )


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pools each RoI into ``aligned_height × aligned_width`` bins.

    Args:
        input: feature map ``(B, C, H, W)``.
        rois: ``(R, 5)`` as image index, x1, y1, x2, y2 in pixels of the image.
        output: receives ``(R, C, aligned_height, aligned_width)``.
        argmax_y: receives, in max mode, the row in feature pixels at which each output was found; -1 if nowhere.
        argmax_x: the same for the column.
        aligned_height: rows of bins.
        aligned_width: columns of bins.
        spatial_scale: feature pixels per image pixel.
        sampling_ratio: sampling points per bin and axis; 0: one for each pixel of the bin.
        pool_mode: 0 maximum, 1 average over a bin's points.
        aligned: shift by half a pixel, as is right; False is the legacy.
    """
    if output.numel() == 0:
        return
    x, rois = _wide(input), rois.to(_wide(input))
    _batch, channels, _height, _width = x.shape
    size = (aligned_height, aligned_width)
    vision = _torchvision(x.device.type) if pool_mode == 1 else None
    if vision is not None:
        output.copy_(vision.roi_align(x, rois, spatial_scale, *size, sampling_ratio, aligned))
        return
    if pool_mode == 1:
        output.copy_(average(x, rois, size, spatial_scale, sampling_ratio, aligned))
        return
    table = x.permute(0, 2, 3, 1).reshape(-1, channels)

    def fill(buffer: Tensor, rows: slice, values: Tensor) -> None:
        buffer[rows] = values.view(-1, *size, channels).permute(0, 3, 1, 2).to(buffer)

    for part in _samples(rois, x.shape, size, spatial_scale, sampling_ratio, aligned):
        values = part.values(table)
        where = part.bin[:, None].expand_as(values)
        best = values.new_full((part.bins, channels), -10000.0).scatter_reduce_(0, where, values, 'amax')
        # The first point that holds the maximum; one past the last stands for "nowhere".
        number = torch.arange(len(values), device=x.device)[:, None].expand_as(values)
        number = number.masked_fill(values != best.gather(0, where), len(values))
        first = number.new_full(best.shape, len(values)).scatter_reduce_(0, where, number, 'amin')
        fill(output, part.rois, best)
        for buffer, at in ((argmax_y, part.y), (argmax_x, part.x)):
            fill(buffer, part.rois, F.pad(at, (0, 1), value=-1.0)[first])


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of :func:`roi_align_forward` with respect to the feature map, into ``grad_input`` ``(B, C, H, W)``."""
    if grad_output.numel() == 0 or grad_input.numel() == 0:
        return
    grad, rois = _wide(grad_output), rois.to(_wide(grad_output))
    batch, channels, height, width = grad_input.shape
    size = (aligned_height, aligned_width)
    vision = _torchvision(grad.device.type) if pool_mode == 1 else None
    if vision is not None:
        grad_input.copy_(
            vision._roi_align_backward(
                grad, rois, spatial_scale, *size, batch, channels, height, width, sampling_ratio, aligned
            )
        )
    elif pool_mode == 1:
        shape = (batch, channels, height, width)
        grad_input.copy_(average_backward(grad, rois, shape, size, spatial_scale, sampling_ratio, aligned))
    else:
        plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
        plane = (plane[:, :, None, None] * (height * width)).expand_as(grad).flatten()
        found = argmax_y.flatten() != -1
        pixel, weight = _bilinear(_wide(argmax_y).flatten()[found], _wide(argmax_x).flatten()[found], height, width)
        flat = grad.new_zeros(grad_input.numel())
        flat.index_add_(0, (plane[found, None] + pixel).flatten(), (grad.flatten()[found, None] * weight).flatten())
        grad_input.copy_(flat.view_as(grad_input))


# ---------------------------------------------------------------------------------------------- sigmoid focal loss
def _focal_terms(x: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, ...]:
    """Probabilities, clamped logs of p and 1-p, and the factors of a positive and a negative, all ``(N, C)``."""
    x = _wide(x)
    p = x.sigmoid()
    tiny = torch.finfo(torch.float32).tiny  # what the kernel clamps by, in every precision
    positive = F.one_hot(target.clamp(0, x.shape[1]), x.shape[1] + 1)[:, :-1].to(x)
    scale = x.new_ones(len(x), 1)
    if weight.numel():
        # Weights are given by class; the background, index C, has none of its own.
        scale = F.pad(weight.to(x), (0, 1), value=1.0)[target][:, None]
    return (
        p,
        p.clamp(min=tiny).log(),
        (1 - p).clamp(min=tiny).log(),
        -alpha * positive * scale,
        -(1 - alpha) * (1 - positive) * scale,
    )


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Focal loss of logits ``(N, C)`` and classes ``(N,)`` in ``0…C`` (C: background), unreduced, into ``output``."""
    p, log_p, log_q, positive, negative = _focal_terms(input, target, weight, alpha)
    output.copy_(positive * (1 - p) ** gamma * log_p + negative * p**gamma * log_q)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Derivative of the unreduced loss with respect to the logits, into ``grad_input`` ``(N, C)``."""
    p, log_p, log_q, positive, negative = _focal_terms(input, target, weight, alpha)
    grad_input.copy_(
        positive * (1 - p) ** gamma * (1 - p - gamma * p * log_p) + negative * p**gamma * (gamma * (1 - p) * log_q - p)
    )


# ---------------------------------------------------------------------------------- multi-scale deformable attention
def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    *,
    im2col_step: int,
) -> Tensor:
    """Weighted sum of bilinear samples from several feature maps.

    Args:
        value: ``(B, ΣH·W, heads, C)``.
        spatial_shapes: ``(levels, 2)`` as H, W.
        level_start_index: ``(levels,)`` first row of each level in ``value``.
        sampling_loc: ``(B, Q, heads, levels, points, 2)`` as x, y in ``[0, 1]`` of each level; zeros lie outside.
        attn_weight: ``(B, Q, heads, levels, points)``.
        im2col_step: batch slice of the compiled op; of no use here.

    Returns:
        ``(B, Q, heads·C)``.
    """
    batch, _, heads, channels = value.shape
    queries = sampling_loc.shape[1]
    out = value.new_zeros(batch * heads, channels, queries)
    if out.numel() == 0:
        return value.new_zeros(batch, queries, heads * channels)
    for level, ((height, width), start) in enumerate(zip(spatial_shapes.tolist(), level_start_index.tolist())):
        rows = value[:, start : start + height * width]
        maps = rows.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = sampling_loc[:, :, :, level].transpose(1, 2).flatten(0, 1) * 2 - 1
        samples = F.grid_sample(maps, grid, mode='bilinear', padding_mode='zeros', align_corners=False)
        weight = attn_weight[:, :, :, level].transpose(1, 2).flatten(0, 1)
        out = out + (samples * weight[:, None]).sum(-1)
    # autocast has some of the steps done in fp32
    return out.view(batch, heads * channels, queries).transpose(1, 2).contiguous().to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    *,
    im2col_step: int,
) -> None:
    """Gradients of :func:`ms_deform_attn_forward`, into the three ``grad_*`` buffers."""
    if grad_output.numel() == 0:
        return
    with torch.enable_grad():
        inputs = [x.detach().requires_grad_() for x in (value, sampling_loc, attn_weight)]
        out = ms_deform_attn_forward(inputs[0], spatial_shapes, level_start_index, *inputs[1:], im2col_step=im2col_step)
    for buffer, grad in zip(
        (grad_value, grad_sampling_loc, grad_attn_weight), torch.autograd.grad(out, inputs, grad_output)
    ):
        buffer.copy_(grad)
