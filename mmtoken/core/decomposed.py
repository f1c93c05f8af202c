"""Decomposed relative positions (MViTv2, arXiv 2112.01526, eq. 4), as ViTDet and SAM have them.

The bias of a query and a key is ``q · Rh[Δy] + q · Rw[Δx]``. Between two patches it is interpolated, so merged or
clustered tokens have one too.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def decomposed_bias(
    q: Tensor, tables: Sequence[Tensor], sides: tuple[int, int], centres: tuple[Tensor, Tensor] | Tensor
) -> Tensor:
    """Returns the bias of the scores, which depends on the queries.

    Args:
        q (Tensor): Queries ``(B, heads, n, d)``.
        tables (Sequence[Tensor]): Rh and Rw, ``(L, d)`` each, from the most negative offset to the most positive one;
            stretched to ``2·side - 1`` offsets by linear interpolation.
        sides (tuple[int, int]): Patches ``(H, W)`` that the positions span.
        centres (tuple[Tensor, Tensor] | Tensor): Rows ``(h,)`` and columns ``(w,)`` in patches of tokens that lie on a
            raster; else ``(y, x)`` of each token ``(B' , n, 2)``, where B' divides B and repeats.

    Returns:
        Tensor: ``(B, heads, n, n)``.
    """
    down, across = (stretched(table, 2 * side - 1) for table, side in zip(tables, sides))
    if isinstance(centres, tuple):
        plane = q.unflatten(2, (len(centres[0]), len(centres[1])))
        of_rows = torch.einsum('bnhwd,hkd->bnhwk', plane, _between(down, centres[0]))
        of_columns = torch.einsum('bnhwd,wkd->bnhwk', plane, _between(across, centres[1]))
        return (of_rows[..., :, None] + of_columns[..., None, :]).flatten(4).flatten(2, 3)
    if centres.shape[0] > 1:
        centres = centres.repeat(q.shape[0] // centres.shape[0], 1, 1)
    y, x = centres.unbind(-1)
    return _gathered(q @ down.t(), y) + _gathered(q @ across.t(), x)


def stretched(table: Tensor, length: int) -> Tensor:
    """Returns a table ``(L, d)`` with another number of offsets, by linear interpolation."""
    if len(table) == length:
        return table
    return F.interpolate(table.float().t()[None], size=length, mode='linear')[0].t().to(table.dtype)


def _offsets(points: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of a table before and after the offset of each query to each key, and how far it is between them."""
    offset = points[..., :, None] - points[..., None, :] + (length - 1) / 2
    offset = offset.clamp(0, length - 1)
    low = offset.floor()
    return low.long(), (low + 1).clamp(max=length - 1).long(), offset - low


def _between(table: Tensor, points: Tensor) -> Tensor:
    """Table at the offset of each point to each other, ``(k, k, d)``."""
    low, high, part = _offsets(points, len(table))
    return torch.lerp(table[low], table[high], part[..., None].to(table.dtype))


def _gathered(scores: Tensor, points: Tensor) -> Tensor:
    """Scores of offsets ``(B, heads, n, L)`` at the offset of each query to each key, ``(B, heads, n, n)``."""
    low, high, part = (t[:, None].expand(*scores.shape[:2], -1, -1) for t in _offsets(points, scores.shape[-1]))
    return torch.lerp(scores.gather(-1, low), scores.gather(-1, high), part.to(scores.dtype))
