"""Expedit: centres and the tokens that may choose them, in tiles whose products are dense."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtoken.core import partition, unpartition


@dataclass(frozen=True)
class Side:
    """One axis of :class:`Tiles`.

    Args:
        tokens (int): Tokens along the axis; token y lies in cell ``⌊y·cells/tokens⌋``.
        cells (int): Centres along the axis, at most as many.
        window (int): λ, odd.
    """

    tokens: int
    cells: int
    window: int

    @property
    def tiles(self) -> int:
        """Tiles of at most λ−1 centres: larger ones multiply more in vain, smaller ones copy more tokens."""
        return -(-self.cells // max(1, self.window - 1))

    @property
    def places(self) -> int:
        """Places for centres in a tile; the last tile may leave some empty."""
        return -(-self.cells // self.tiles)

    @property
    def slots(self) -> int:
        """Slots for tokens in a tile; only the fullest one fills them all."""
        reach, starts = self.window // 2, range(0, self.tiles * self.places, self.places)
        spans = [(max(0, start - reach), min(self.cells, start + self.places + reach)) for start in starts]
        return max(self._first(end) - self._first(start) for start, end in spans)

    def _first(self, cell):
        """First token of a cell, or of each of a tensor of cells."""
        return (cell * self.tokens + self.cells - 1) // self.cells

    def _first_of_tile(self, tile: Tensor) -> Tensor:
        """First token that may choose a centre of each tile."""
        return self._first((tile * self.places - self.window // 2).clamp(min=0))

    def token_of_slot(self, device: torch.device) -> Tensor:
        """Returns the token in each slot ``(tiles, slots)``, int64; any one where there is none."""
        token = self._first_of_tile(torch.arange(self.tiles, device=device))[:, None]
        token = token + torch.arange(self.slots, device=device)
        return token.clamp(max=self.tokens - 1)

    def candidates(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns each token's candidates ``(tokens, λ)``: tile, place, the token's slot in it, whether they exist."""
        token = torch.arange(self.tokens, device=device)[:, None]
        wish = token * self.cells // self.tokens + torch.arange(self.window, device=device) - self.window // 2
        cell = wish.clamp(0, self.cells - 1)
        tile = cell // self.places
        return tile, cell - tile * self.places, token - self._first_of_tile(tile), cell == wish


class Tiles:
    """Tiles of centres, each with all tokens that may choose one of them.

    A token may choose among the λ×λ centres around its home cell. Distances and sums are products of the centres and
    the tokens of each tile. Tokens are copied into tiles once; between the two orders, by token and by tile, only
    single numbers move, by an index that depends on shapes alone. So no cell is padded to the largest, no centre is
    copied for each token that looks at it, and nothing is summed by scattering.

    Args:
        raster (tuple[int, int]): ``(H, W)`` tokens.
        grid (tuple[int, int]): ``(h, w)`` centres, not more on either side.
        window (int): λ, odd.
        device (torch.device): Device of the indices.

    Attributes:
        shape (tuple[int, int, int]): Tiles, places for centres in each, slots for tokens in each.
    """

    def __init__(self, raster: tuple[int, int], grid: tuple[int, int], window: int, device: torch.device):
        y, x = (Side(tokens, cells, window) for tokens, cells in zip(raster, grid))
        self.shape = tiles, places, slots = tile_shape(raster, grid, window)
        self._grid, self._sides = grid, (y.places, x.places)
        index, first, last = _index(raster, grid, window, device), tiles * slots, tiles * places * slots
        self._token, self._number, self._back = index[:first], index[first:-last], index[-last:]
        self._candidates = raster[0] * raster[1], window**2

    def tokens(self, x: Tensor) -> Tensor:
        """Copies tokens ``(B, H·W, C)`` into the tiles: ``(B, tiles, slots, C)``; any where there is none."""
        return x.index_select(1, self._token).unflatten(1, (self.shape[0], self.shape[2]))

    def centres(self, x: Tensor) -> Tensor:
        """Puts centres ``(B, h·w, C)`` into the tiles: ``(B, tiles, places, C)``; zeros where there is none."""
        return partition(x, self._grid, self._sides).unflatten(0, (-1, self.shape[0]))

    def grid(self, x: Tensor) -> Tensor:
        """Undoes :meth:`centres`."""
        return unpartition(x.flatten(0, 1), self._grid, self._sides)

    def by_token(self, x: Tensor, fill: float) -> Tensor:
        """Orders numbers ``(B, tiles, places, slots)`` by token and candidate: ``(B, H·W, λ²)``.

        Candidates beyond the border get ``fill``.
        """
        x = F.pad(x.flatten(1), (0, 1), value=fill)
        return x.index_select(1, self._number).unflatten(1, self._candidates)

    def by_tile(self, x: Tensor) -> Tensor:
        """Undoes :meth:`by_token`; zero for a centre that is no candidate of the token."""
        return F.pad(x.flatten(1), (0, 1)).index_select(1, self._back).unflatten(1, self.shape)


def tile_shape(raster: tuple[int, int], grid: tuple[int, int], window: int) -> tuple[int, int, int]:
    """Returns the number of tiles, of places for centres in each and of slots for tokens in each (:class:`Tiles`)."""
    y, x = (Side(tokens, cells, window) for tokens, cells in zip(raster, grid))
    return y.tiles * x.tiles, y.places * x.places, y.slots * x.slots


@torch.compiler.assume_constant_result  # inductor cannot read at places that it has to compute in the same loop
def _index(raster: tuple[int, int], grid: tuple[int, int], window: int, device: torch.device) -> Tensor:
    """Returns the indices of :class:`Tiles` one after the other, int32; one beyond the last where there is nothing.

    These are the token in each slot, the place among all tiles of each token's candidates, and the way back.
    """
    y, x = (Side(tokens, cells, window) for tokens, cells in zip(raster, grid))
    tiles, places, slots = tile_shape(raster, grid, window)
    token = _pairs(y.token_of_slot(device) * x.tokens, x.token_of_slot(device)).flatten()
    (row, down, high, above), (column, across, wide, beside) = (side.candidates(device) for side in (y, x))
    rows = (row * x.tiles * places + down * x.places) * slots + high * x.slots
    columns = (column * places + across) * slots + wide
    missing = ~_pairs(above, beside, operator.and_).flatten()
    number, count = _pairs(rows, columns).flatten(), tiles * places * slots
    short: dict[str, Any] = dict(dtype=torch.int32, device=device)
    number = number.masked_fill(missing, count)
    # What is missing is written into one last entry, which is cut off.
    back = torch.full((count + 1,), len(number), **short).scatter(0, number, torch.arange(len(number), **short))[:count]
    return torch.cat([token.int(), number.int(), back])


def _pairs(one: Tensor, other: Tensor, join: Callable = operator.add) -> Tensor:
    """Joins each entry of one axis ``(a, b, …)`` with each of the other ``(c, d, …)``: ``(a, c, b, d, …)``."""
    for axis in range(one.dim()):
        one, other = one.unsqueeze(2 * axis + 1), other.unsqueeze(2 * axis)
    return join(one, other)
