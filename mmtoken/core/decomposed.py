"""Decomposed relative positions (MViTv2, arXiv 2112.01526, eq. 4), as ViTDet and SAM have them.

The bias of a query and a key is ``q · Rh[Δy] + q · Rw[Δx]``. Centres of merged or clustered tokens lie between patches:
the query's offsets to all rows and columns are read from the tables by linear interpolation, and a key shares between
the two rows and the two columns around it. For tokens of 2×2 patches that is the mean over the pairs of their patches.
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
        of_rows = torch.einsum('bnhwd,hkd->bnhwk', plane, _table_of(down, centres[0]))
        of_columns = torch.einsum('bnhwd,wkd->bnhwk', plane, _table_of(across, centres[1]))
        return (of_rows[..., :, None] + of_columns[..., None, :]).flatten(4).flatten(2, 3)
    if centres.shape[0] > 1:
        centres = centres.repeat(q.shape[0] // centres.shape[0], 1, 1)
    y, x = centres.unbind(-1)
    scores = torch.cat([_scores_of(q, down, y), _scores_of(q, across, x)], -1)
    shares = torch.cat([_shares(y, sides[0]), _shares(x, sides[1])], -1).to(scores.dtype)
    return scores @ shares[:, None].transpose(-1, -2)


def stretched(table: Tensor, length: int) -> Tensor:
    """Returns a table ``(L, d)`` with another number of offsets, by linear interpolation."""
    if len(table) == length:
        return table
    return F.interpolate(table.float().t()[None], size=length, mode='linear')[0].t().to(table.dtype)


def _offsets(points: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of a table before and after the offset of each point to each patch, and how far it is between them.

    Each is ``(…, n, side)``, with ``length = 2·side - 1``.
    """
    patches = torch.arange((length + 1) // 2, device=points.device, dtype=points.dtype)
    offset = (points[..., None] - patches + (length - 1) / 2).clamp(0, length - 1)
    low = offset.floor()
    return low.long(), (low + 1).clamp(max=length - 1).long(), offset - low


def _shares(points: Tensor, side: int) -> Tensor:
    """Parts of each point that belong to the two patches around it, ``(…, n, side)``; they sum to 1."""
    patches = torch.arange(side, device=points.device, dtype=points.dtype)
    return (1 - (points.clamp(0, side - 1)[..., None] - patches).abs()).clamp(min=0)


def _table_of(table: Tensor, points: Tensor) -> Tensor:
    """Table of each point to each other, ``(k, k, d)``."""
    low, high, part = _offsets(points, len(table))
    rows = torch.lerp(table[low], table[high], part[..., None].to(table.dtype))  # of each to each patch
    return torch.einsum('isd,js->ijd', rows, _shares(points, rows.shape[1]).to(rows.dtype))


def _scores_of(q: Tensor, table: Tensor, points: Tensor) -> Tensor:
    """Score of each query ``(B, heads, n, d)`` at each patch of an axis, ``(B, heads, n, side)``."""
    scores = q @ table.t()
    low, high, part = (t[:, None].expand(*scores.shape[:2], -1, -1) for t in _offsets(points, len(table)))
    return torch.lerp(scores.gather(-1, low), scores.gather(-1, high), part.to(scores.dtype))
