"""Pure functions of tensors that methods share; torch only."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

#: Stands for minus infinity among scores. exp() of it is zero, and a row that is masked throughout stays finite, even
#: after a product with a temperature of 1e13, which an image of one colour gets.
MASKED = -1e20


#: Most numbers of a product that is used up at once, see :func:`in_parts`.
PART = 2**22

#: Devices that have autocast, asked once: older torch cannot compile the question.
_AUTOCAST = frozenset(kind for kind in ('cpu', 'cuda', 'mps', 'xpu') if torch.amp.is_autocast_available(kind))


def full_precision(x: Tensor) -> AbstractContextManager:
    """Switches autocast off on the device of ``x``, since squared distances overflow half precision."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if kind in _AUTOCAST else nullcontext()


def length(x: Tensor, dim: int = 1) -> int:
    """Returns the size of a dimension as a number, also where torch's tracer gives a tensor, which has no ``round``."""
    return int(x.shape[dim]) if torch.jit.is_tracing() else x.shape[dim]


def in_parts(width: int, *tensors: Tensor, dim: int = 1) -> list[tuple[Tensor, ...]]:
    """Splits tensors along one dimension, so that what is made of a part holds at most ``PART`` numbers an image.

    An accelerated model must not need more memory than the dense one, whose fused attention makes no N×N matrix. While
    a model is compiled, exported or traced there is one part. The parts do not depend on the batch.

    Args:
        width (int): Numbers that are made of an image for each place of the dimension.
        *tensors (Tensor): Of the same length there.
        dim (int): The dimension. Defaults to 1.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return [tensors]
    size = max(1, PART // max(1, width))
    return list(zip(*(tensor.split(size, dim) for tensor in tensors)))


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


def home_cells(raster: tuple[int, int], grid: tuple[int, int], device=None) -> tuple[Tensor, Tensor]:
    """Returns the tokens of each cell if an ``h×w`` grid is laid over an ``H×W`` raster, at least as large.

    Cell ``(i, j)`` holds the tokens ``(y, x)`` with ``⌊y·h/H⌋ = i`` and ``⌊x·w/W⌋ = j``. Where the sides do not divide,
    cells differ in size, so each has ``t`` slots and a mask.

    Args:
        raster (tuple[int, int]): ``(H, W)``.
        grid (tuple[int, int]): ``(h, w)``, not larger on either side.
        device (torch.device, optional): Device of the result.

    Returns:
        tuple[Tensor, Tensor]: Token of each slot ``(h·w, t)``, int64, and whether the slot holds one, bool.
    """

    def line(size: int, cells: int) -> tuple[Tensor, Tensor]:
        start = (torch.arange(cells + 1, device=device) * size + cells - 1) // cells
        token = start[:-1, None] + torch.arange(-(-size // cells), device=device)
        return token.clamp(max=size - 1), token < start[1:, None]

    y, y_ok = line(raster[0], grid[0])
    x, x_ok = line(raster[1], grid[1])
    members = y[:, None, :, None] * raster[1] + x[None, :, None, :]
    filled = y_ok[:, None, :, None] & x_ok[None, :, None, :]
    return members.reshape(grid[0] * grid[1], -1), filled.reshape(grid[0] * grid[1], -1)


def cells_with(valid: Tensor, raster: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Returns which :func:`home_cells` of a grid hold at least one valid token.

    Args:
        valid (Tensor): Tokens ``(B, H·W)``, bool.
        raster (tuple[int, int]): ``(H, W)``.
        grid (tuple[int, int]): ``(h, w)``, not larger on either side.

    Returns:
        Tensor: ``(B, h·w)``, bool.
    """
    members, filled = home_cells(raster, grid, valid.device)
    return (valid[:, members.flatten()].unflatten(1, members.shape) & filled).any(-1)


def largest(values: Tensor, number: int) -> Tensor:
    """Returns which values of each row are the largest; of equal ones the first. Neither sorts nor syncs with the GPU.

    Args:
        values (Tensor): ``(B, N)``, without nan.
        number (int): How many of each row, 0 to N.

    Returns:
        Tensor: ``(B, N)``, bool, true ``number`` times in each row.
    """
    if number == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    least = values.topk(number, dim=1).values[:, -1:]
    above, level = values > least, values == least
    return above | level & (level.cumsum(1) <= number - above.sum(1, keepdim=True))


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
    values = values.expand(index.shape[0], *values.shape[1:])  # len() would fix the batch of a graph
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


def places_of(mask: Tensor, number: int) -> Tensor:
    """Returns where each row of a mask is true, for rows that are true equally often, without a GPU→CPU sync.

    Args:
        mask (Tensor): ``(B, N)``, bool.
        number (int): How often each row is true.

    Returns:
        Tensor: Rising indices ``(B, number)``, int64.
    """
    places = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape[0], -1)
    # The false ones all write into one last column, which is cut off.
    rank = (mask.cumsum(1) - 1).masked_fill(~mask, number)
    return places.new_zeros(mask.shape[0], number + 1).scatter(1, rank, places)[:, :number]
