"""Expedit: home cells of tokens, and the windows of centres around each cell."""

import torch
import torch.nn.functional as F
from torch import Tensor


def _cells_1d(size: int, cells: int, device) -> tuple[Tensor, Tensor]:
    """Returns the tokens ``(cells, t)`` of each cell of a line, and which of them exist."""
    start = (torch.arange(cells + 1, device=device) * size + cells - 1) // cells
    token = start[:-1, None] + torch.arange(-(-size // cells), device=device)
    return token.clamp(max=size - 1), token < start[1:, None]


def home_cells(raster: tuple[int, int], grid: tuple[int, int], device=None) -> tuple[Tensor, Tensor]:
    """Returns the tokens of each cell if an ``h×w`` grid is laid over an ``H×W`` raster, at least as large.

    Cell ``(i, j)`` holds the tokens ``(y, x)`` with ``⌊y·h/H⌋ = i`` and ``⌊x·w/W⌋ = j``. Where the sides do not divide,
    cells differ in size, so each has ``t`` slots and a mask.

    Returns:
        tuple[Tensor, Tensor]: Token of each slot ``(h·w, t)``, int64, and whether the slot holds one, bool.
    """
    y, y_ok = _cells_1d(raster[0], grid[0], device)
    x, x_ok = _cells_1d(raster[1], grid[1], device)
    members = y[:, None, :, None] * raster[1] + x[None, :, None, :]
    filled = y_ok[:, None, :, None] & x_ok[None, :, None, :]
    return members.reshape(grid[0] * grid[1], -1), filled.reshape(grid[0] * grid[1], -1)


def neighbours(centres: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Returns the ``λ×λ`` centres around each centre of a grid; zeros beyond the border.

    Args:
        centres (Tensor): ``(B, h·w, C)``.
        grid (tuple[int, int]): ``(h, w)``.
        window (int): λ, odd.

    Returns:
        Tensor: ``(B, h·w, λ², C)``.
    """
    radius = window // 2
    plane = F.pad(centres.unflatten(1, grid), (0, 0, radius, radius, radius, radius))
    around = plane.unfold(1, window, 1).unfold(2, window, 1)  # (B, h, w, C, λ, λ), a view
    return around.permute(0, 1, 2, 4, 5, 3).flatten(3, 4).flatten(1, 2)


def scatter_to_neighbours(values: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Sums for each centre the values that its neighbours hold for it: the adjoint of :func:`neighbours`.

    Args:
        values (Tensor): ``(B, h·w, λ², C)``.
        grid (tuple[int, int]): ``(h, w)``.
        window (int): λ, odd.

    Returns:
        Tensor: ``(B, h·w, C)``.
    """
    h, w = grid
    radius = window // 2
    values = values.unflatten(1, grid)
    plane = values.new_zeros(values.shape[0], h + 2 * radius, w + 2 * radius, values.shape[-1])
    for k in range(window * window):
        dy, dx = divmod(k, window)
        plane[:, dy : dy + h, dx : dx + w] += values[:, :, :, k]
    return plane[:, radius : radius + h, radius : radius + w].flatten(1, 2)
