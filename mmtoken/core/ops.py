"""Pure tensor functions that the methods are made of; no state, no modules, nothing but torch."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

#: Stands for minus infinity among scores: exp() of it is zero, and a row that is masked throughout stays finite, even
#: times a temperature of 1e13, as an image of one colour has it.
MASKED = -1e20


def full_precision(x: Tensor) -> AbstractContextManager:
    """Switches autocast off on the device of ``x``: squared distances overflow half precision."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def _cells_1d(size: int, cells: int, device) -> tuple[Tensor, Tensor]:
    """Tokens ``(cells, t)`` of each cell of a line, and which of them exist."""
    start = (torch.arange(cells + 1, device=device) * size + cells - 1) // cells
    token = start[:-1, None] + torch.arange(-(-size // cells), device=device)
    return token.clamp(max=size - 1), token < start[1:, None]


def home_cells(raster: tuple[int, int], grid: tuple[int, int], device=None) -> tuple[Tensor, Tensor]:
    """Home cells of an ``H×W`` raster under an ``h×w`` grid that is larger on neither side.

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
    """The ``λ×λ`` centres around each centre of a grid; zeros beyond the border.

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
    """Adjoint of :func:`neighbours`: each centre sums what its neighbours hold for it.

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


def pool_to_grid(x: Tensor, raster: tuple[int, int], grid: tuple[int, int], valid: Tensor | None = None) -> Tensor:
    """Adaptive average pooling of tokens, over the valid ones only.

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


def grid_coords(raster: tuple[int, int], grid: tuple[int, int], device=None) -> Tensor:
    """Centres of the cells of a grid in units of ``raster``'s tokens ``(1, h·w, 2)``, fp32, first token at 0."""
    axes = [(torch.arange(n, device=device) + 0.5) * (size / n) - 0.5 for size, n in zip(raster, grid)]
    return torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).reshape(1, -1, 2)


def indices_of(mask: Tensor, number: int) -> Tensor:
    """Where a mask is true, for those who know how often: ``nonzero`` without a synchronisation with the host.

    Args:
        mask (Tensor): ``(N,)``, bool.
        number (int): How often it is true.

    Returns:
        Tensor: Rising indices ``(number,)``, int64.
    """
    rows = torch.arange(len(mask), device=mask.device)
    # the others all write into one place that is cut off
    place = (mask.cumsum(0) - 1).masked_fill(~mask, number)
    return rows.new_empty(number + 1).scatter(0, place, rows)[:number]


def top_of_group(score: Tensor, group: Tensor, k: int, groups: int) -> Tensor:
    """Which elements are among the k largest of their group; of equal ones the earlier.

    Args:
        score (Tensor): ``(N,)``.
        group (Tensor): ``(N,)``, int64, in ``0…groups``; the elements of group ``groups`` are none of them.
        k (int): Elements of each group.
        groups (int): Number of groups.

    Returns:
        Tensor: ``(N,)``, bool.
    """
    order = score.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    group = group[order]
    count = torch.zeros(groups + 1, dtype=torch.int64, device=group.device).index_add(0, group, torch.ones_like(group))
    rank = torch.arange(len(group), device=group.device) - (count.cumsum(0) - count)[group]
    top = (rank < k) & (group < groups)
    return torch.zeros_like(top).index_copy(0, order, top)


def bipartite_match(metric: Tensor, r: int, valid: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """ToMe's bipartite soft matching (arXiv 2210.09461, section 3): the ``r`` best edges from even to odd tokens.

    Args:
        metric (Tensor): What similarity is measured on ``(B, n, d)``.
        r (int): Tokens to merge, at most ``⌊n/2⌋``.
        valid (Tensor, optional): ``(B, n)``, bool; the others merge last, and then among themselves: ``r`` is promised.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Positions of merged tokens ``(B, r)`` and of those that they are merged into
        ``(B, r)``, both int64 among the n; and their cosine similarity ``(B, r)``.
    """
    metric = F.normalize(metric.float(), dim=-1)  # a zero vector stays zero
    scores = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
    if valid is not None:
        from_valid, to_valid = valid[:, ::2, None], valid[:, None, 1::2]
        # Below every cosine, and above a merge that would spoil a valid token.
        scores = scores.masked_fill(~(from_valid & to_valid), -2.0).masked_fill(from_valid ^ to_valid, MASKED)
    best, partner = scores.max(dim=-1)
    # A stable sort settles ties by position, so an image's merges never depend on the device or on its batch.
    edges = best.argsort(dim=-1, descending=True, stable=True)[:, :r]
    return 2 * edges, 2 * partner.gather(1, edges) + 1, best.gather(1, edges)
