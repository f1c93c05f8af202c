"""Pure functions of tensors that methods share; torch only."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

#: Stands for minus infinity among scores. exp() of it is zero, and a row that is masked throughout stays finite, even
#: after a product with a temperature of 1e13, which an image of one colour gets.
MASKED = -1e20


#: Devices that have autocast, asked once: older torch cannot compile the question.
_AUTOCAST = frozenset(kind for kind in ('cpu', 'cuda', 'mps', 'xpu') if torch.amp.is_autocast_available(kind))


def full_precision(x: Tensor) -> AbstractContextManager:
    """Switches autocast off on the device of ``x``, since squared distances overflow half precision."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if kind in _AUTOCAST else nullcontext()


def pool_to_grid(x: Tensor, raster: tuple[int, int], grid: tuple[int, int], valid: Tensor | None = None) -> Tensor:
    """Averages the valid tokens of each cell (adaptive average pooling).

    Args:
        x (Tensor): ``(B, H·W, C)``.
        raster (tuple[int, int]): ``(H, W)``.
        grid (tuple[int, int]): ``(h, w)``.
        valid (Tensor, optional): ``(B, H·W)``, bool.

    Returns:
        Tensor: ``(B, h·w, C)``; zero where a cell has no valid token.
    """

    def pool(t: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(t.transpose(1, 2).unflatten(2, raster), grid).flatten(2).transpose(1, 2)

    if valid is None:
        return pool(x)
    weight = valid[..., None].to(x.dtype)
    return pool(x * weight) / pool(weight).clamp(min=1e-6)


def cells_with(valid: Tensor, raster: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Returns which cells of a grid hold at least one valid token of their own.

    Cell ``(i, j)`` holds the tokens ``(y, x)`` with ``⌊y·h/H⌋ = i`` and ``⌊x·w/W⌋ = j``.

    Args:
        valid (Tensor): Tokens ``(B, H·W)``, bool.
        raster (tuple[int, int]): ``(H, W)``.
        grid (tuple[int, int]): ``(h, w)``, not larger on either side.

    Returns:
        Tensor: ``(B, h·w)``, bool.
    """
    rows, columns = (torch.arange(n, device=valid.device) * m // n for n, m in zip(raster, grid))
    cell = (rows[:, None] * grid[1] + columns).flatten()
    return valid.new_zeros(valid.shape[0], grid[0] * grid[1], dtype=torch.int32).index_add(1, cell, valid.int()) > 0


def grid_coords(raster: tuple[int, int], grid: tuple[int, int], device=None) -> Tensor:
    """Returns the centres of a grid's cells ``(1, h·w, 2)``, fp32, in tokens of ``raster``; its first one is at 0."""
    axes = [(torch.arange(n, device=device) + 0.5) * (size / n) - 0.5 for size, n in zip(raster, grid)]
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).reshape(1, -1, 2)


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """Picks rows of each image.

    Args:
        values (Tensor): ``(B or 1, n, …)``.
        index (Tensor): Rows ``(B, m)``, int64.

    Returns:
        Tensor: ``(B, m, …)``.
    """
    values = values.expand(len(index), *values.shape[1:])
    return values.gather(1, index.view(*index.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:]))


def indices_of(mask: Tensor, number: int) -> Tensor:
    """Returns where a mask is true: ``nonzero`` for a known count, without a GPU→CPU sync.

    Args:
        mask (Tensor): ``(N,)``, bool.
        number (int): Number of true entries.

    Returns:
        Tensor: Rising indices ``(number,)``, int64.
    """
    rows = torch.arange(len(mask), device=mask.device)
    # The false ones all write into one last place, which is cut off.
    place = (mask.cumsum(0) - 1).masked_fill(~mask, number)
    return rows.new_empty(number + 1).scatter(0, place, rows)[:number]
