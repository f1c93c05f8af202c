"""ToMe: chooses which tokens merge into which."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtoken.core.ops import MASKED, in_parts, rows_at


def bipartite_match(
    metric: Tensor,
    r: int,
    valid: Tensor | None = None,
    first: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the ``r`` best edges from even to odd tokens: bipartite soft matching (arXiv 2210.09461, section 3).

    Args:
        metric (Tensor): Vectors to compare ``(B, n, d)``.
        r (int): Tokens to merge, at most ``⌊n/2⌋``.
        valid (Tensor, optional): ``(B, n)``, bool. Invalid tokens merge last and only with each other, so exactly
            ``r`` tokens merge.
        first (int): Position of the first token that may merge, 0 or 1. Defaults to 0.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Positions of merged tokens ``(B, r)`` and of those that they are merged into
        ``(B, r)``, both int64 among the n; and their cosine similarity ``(B, r)``.
    """

    def side(values: Tensor, i: int) -> Tensor:
        return values[:, (first + i) % 2 :: 2]

    metric = F.normalize(metric.float(), dim=-1)  # a zero vector stays zero
    others = side(metric, 1).transpose(1, 2)
    found = []
    for some, *from_valid in in_parts(others.shape[2], side(metric, 0), *([] if valid is None else [side(valid, 0)])):
        scores = some @ others
        if valid is not None:
            one, other = from_valid[0][:, :, None], side(valid, 1)[:, None]
            # Pairs of invalid tokens come after every cosine, and before pairs of a valid and an invalid token.
            scores = scores.masked_fill(~(one & other), -2.0).masked_fill(one ^ other, MASKED)
        found.append(scores.max(dim=-1))
    best, partner = (torch.cat(parts, dim=1) for parts in zip(*found))
    # A stable sort settles ties by position, so an image's merges never depend on the device or on its batch.
    edges = best.argsort(dim=-1, descending=True, stable=True)[:, :r]
    return 2 * edges + first, 2 * partner.gather(1, edges) + 1 - first, best.gather(1, edges)


def merge_plan(source: Tensor, target: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Returns which tokens stay after a merge, and the new position of each old token.

    Args:
        source (Tensor): Positions of merged tokens ``(B, r)``, int64, all different.
        target (Tensor): Positions that they are merged into ``(B, r)``, int64, none of them a source.
        n (int): Tokens before the merge.

    Returns:
        tuple[Tensor, Tensor]: Positions of the tokens that stay, in raster order, ``(B, n−r)``; and the new position
        of each old token's value ``(B, n)``.
    """
    batch, r = source.shape
    # Integers: the exporter has no scatter of a bool.
    stays = torch.ones(batch, n, dtype=torch.int64, device=source.device).scatter(1, source, 0)
    place = stays.cumsum(1) - 1
    index = place.scatter(1, source, place.gather(1, target))
    # Inverts `place` for tokens that stay; merged tokens all write into one column, which is cut off.
    positions = torch.arange(n, device=source.device).expand(batch, -1)
    stay = positions.new_empty(batch, n - r + 1).scatter(1, place.masked_fill(stays == 0, n - r), positions)[:, : n - r]
    return stay, index


def merge_sums(values: Tensor, stay: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Returns for each token that stays the sum of its value and of those that are merged into it, ``(B, n−r, C)``.

    Sums are products with a 0/1 matrix, not atomics: bit-equal at every run, and exportable.

    Args:
        values (Tensor): ``(B, n, C)``.
        stay (Tensor): See :func:`merge_plan`.
        source (Tensor): See :func:`merge_plan`.
        target (Tensor): See :func:`merge_plan`.
    """
    moved, sums = rows_at(values, source), []
    for (some,) in in_parts(target.shape[1], stay):
        into = (target[:, None] == some[..., None]).to(values.dtype)
        sums.append(rows_at(values, some) + into @ moved)
    return torch.cat(sums, dim=1)


def merges_per_block(r: int | Sequence[int] | None, keep: float | None, depth: int) -> list[int | float]:
    """Returns the number of merges in each block, from any of ToMe's notations.

    Args:
        r (int | Sequence[int], optional): Tokens merged in every block, or in each.
        keep (float, optional): Part of the tokens left after the last block, in (0, 1]; the same part is merged in
            every block.
        depth (int): Number of blocks.

    Returns:
        list: For each block the tokens to merge (int), or the part of them to merge (float).

    Raises:
        ValueError: For bad values; names ``r`` or ``keep`` and the remedy.
    """
    if (r is None) == (keep is None):
        raise ValueError(f'Give either r or keep, not r={r!r} and keep={keep!r}.')
    if keep is not None:
        if not isinstance(keep, (int, float)) or isinstance(keep, bool) or not 0 < keep <= 1:
            raise ValueError(f'keep={keep!r} is outside (0, 1]; give the part of the tokens to keep to the end.')
        return [1 - float(keep) ** (1 / depth)] * depth
    steps: list[Any] = list(r) if isinstance(r, (list, tuple)) else [r] * depth
    if any(not isinstance(s, int) or isinstance(s, bool) or s < 0 for s in steps):
        raise ValueError(f'r={r!r} must be made of integers >= 0; a part of the tokens is keep.')
    if len(steps) != depth:
        raise ValueError(
            f'r has {len(steps)} entries; this model merges in {depth} blocks: give one for each, or one number.'
        )
    return steps
