"""Restores: maps from reduced tokens back to those before the reduction."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops import in_parts


class Restore:
    """Undoes one reduction: maps the reduced patch tokens back to those before it."""

    def __call__(self, x: Tensor, num_prefix: int) -> Tensor:
        """Maps all tokens ``(B, P+M, C)`` to ``(B, P+N, C)``; the ``num_prefix`` first ones stay as they are."""
        if num_prefix == 0:
            return self.patches(x)
        return torch.cat([x[:, :num_prefix], self.patches(x[:, num_prefix:])], dim=1)

    def patches(self, x: Tensor) -> Tensor:
        """Maps patch tokens ``(B, M, C)`` to ``(B, N, C)``."""
        raise NotImplementedError

    def full(self, x: Tensor, num_prefix: int) -> Tensor:
        """Maps all tokens ``(B, P+M, C)`` to the patch tokens ``(B, N, C)`` alone."""
        return self.patches(x[:, num_prefix:])

    def after(self, earlier: 'Restore') -> 'Restore | None':
        """Returns this map and then that of an earlier reduction as one map; None if they do not join."""
        return None

    def without_saved(self) -> 'Restore':
        """Returns the same map with zeros in place of the tokens that it saved."""
        return self


def _with_saved(x: Tensor, saved: Sequence[Tensor | int], dim: int) -> Tensor:
    """Puts saved tokens before the present ones along ``dim``; a number stands for that many rows of zeros."""
    rows = []
    for part in saved:
        if isinstance(part, int):
            shape = list(x.shape)
            shape[dim] = part
            part = x.new_zeros(shape)
        elif part.shape[-1] != x.shape[-1]:
            raise ValueError(
                f'A reducer took out tokens of {part.shape[-1]} channels, which cannot be put back among values of '
                f'{x.shape[-1]} channels; leave out the method whose head runs on reduced tokens, or put it first.'
            )
        rows.append(part.to(x.dtype))
    return torch.cat([*rows, x], dim=dim) if rows else x


def _lengths(saved: Sequence[Tensor | int], dim: int) -> list[int]:
    return [part if isinstance(part, int) else part.shape[dim] for part in saved]


def _shifted(index: Tensor, saved: Sequence[Tensor | int], dim: int) -> Tensor:
    """Puts rows that were saved earlier before an index: each of them maps to itself."""
    number = sum(_lengths(saved, dim))
    first = torch.arange(number, device=index.device).expand(*index.shape[:-1], number)
    return torch.cat([first, index + number], dim=-1) if number else index


class Gather(Restore):
    """Gives each old token the value of one new token, or its own saved value if it was dropped.

    Args:
        index (Tensor): Row of each old token in ``[saved tokens, new tokens]``, ``(B or 1, N)``, int64.
        saved (Sequence[Tensor]): Dropped tokens ``(B, D, C)``. Defaults to none.
    """

    def __init__(self, index: Tensor, saved: Sequence[Tensor | int] = ()):
        self.index, self.saved = index, tuple(saved)

    def patches(self, x: Tensor) -> Tensor:
        index = self.index.expand(x.shape[0], -1)
        return _with_saved(x, self.saved, 1).gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

    def after(self, earlier: Restore) -> 'Gather | None':
        if not isinstance(earlier, Gather):
            return None
        index, saved = _shifted(self.index, earlier.saved, 1), (*earlier.saved, *self.saved)
        if index.shape[0] == 1:  # the same map for every image
            return Gather(index[0][earlier.index], saved)
        return Gather(index.gather(1, earlier.index.expand(index.shape[0], -1)), saved)

    def without_saved(self) -> 'Gather':
        return Gather(self.index, _lengths(self.saved, 1))


class WeightedSum(Restore):
    """Makes each old token a weighted sum of new tokens.

    Args:
        weights (Tensor): ``(B, N, M)``, rows sum to 1 so that constant features come back unchanged. With ``index``
            those of k new tokens alone, ``(B, N, k)``.
        index (Tensor, optional): Which new tokens, ``(B, N, k)``, int64.
    """

    def __init__(self, weights: Tensor, index: Tensor | None = None):
        self.weights, self.index = weights, index

    def patches(self, x: Tensor) -> Tensor:
        weights, number = self.weights.to(x.dtype), x.shape[1]
        if self.index is None:
            return weights @ x
        parts = [_rows(some, index, number) @ x for some, index in in_parts(number, weights, self.index)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def transposed(self, values: Tensor, number: int) -> Tensor:
        """Returns the weighted sums of values of the old tokens ``(B, N)`` for ``number`` new ones, ``(B, M)``."""
        weights = self.weights.to(values.dtype)
        if self.index is None:
            return (values[:, None] @ weights)[:, 0]
        total = values.new_zeros(values.shape[0], number)
        for part, some, index in in_parts(number, values, weights, self.index):
            total = total + (part[:, None] @ _rows(some, index, number))[:, 0]
        return total


def _rows(weights: Tensor, index: Tensor, number: int) -> Tensor:
    """Returns k weights in each row at their places among ``number`` ``(B, n, M)``."""
    return weights.new_zeros(*index.shape[:2], number).scatter(-1, index, weights)


class Interpolate(Restore):
    """Interpolates new tokens from their smaller raster to the old one.

    Args:
        source (tuple[int, int]): Raster ``(h, w)`` of the new tokens.
        target (tuple[int, int]): Raster ``(H, W)`` of the old ones.
        mode (str): ``bilinear`` or ``nearest``.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int], mode: str):
        self.source, self.target, self.mode = source, target, mode

    def patches(self, x: Tensor) -> Tensor:
        align = False if self.mode == 'bilinear' else None
        x = x.transpose(1, 2).unflatten(2, self.source)
        return F.interpolate(x, self.target, mode=self.mode, align_corners=align).flatten(2).transpose(1, 2)


class Scatter(Restore):
    """Puts the packed rows of a ragged batch back, and dropped rows with their saved values.

    Args:
        index (Tensor): Row of each old row, prefix included, in ``[saved rows, new rows]`` ``(R,)``, int64.
        saved (Sequence[Tensor]): Dropped rows ``(D, C)``.
        shape (tuple[int, ...]): Shape of the old batch without channels: ``(B, L)``, or ``(ΣL,)`` if it was ragged.
    """

    def __init__(self, index: Tensor, saved: Sequence[Tensor | int], shape: tuple[int, ...]):
        self.index, self.saved, self.shape = index, tuple(saved), tuple(shape)

    def __call__(self, x: Tensor, num_prefix: int) -> Tensor:
        return _with_saved(x.flatten(0, -2), self.saved, 0)[self.index].unflatten(0, self.shape)

    def full(self, x: Tensor, num_prefix: int) -> Tensor:
        return self(x, num_prefix)[:, num_prefix:]

    def after(self, earlier: Restore) -> 'Scatter | None':
        if not isinstance(earlier, Scatter):
            return None
        index = _shifted(self.index, earlier.saved, 0)[earlier.index]
        return Scatter(index, (*earlier.saved, *self.saved), earlier.shape)

    def without_saved(self) -> 'Scatter':
        return Scatter(self.index, _lengths(self.saved, 0), self.shape)
