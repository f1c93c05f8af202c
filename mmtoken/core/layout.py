"""Layout: where the tokens of a batch lie, and which patches each stands for."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops import grid_coords
from .packing import Packing
from .windows import Windows, assign_windows

#: A tensor, or a function that makes it on first use: most hosts never ask for centres or sizes.
Lazy = Tensor | Callable[[], Tensor] | None


#: Size of a hidden token: beside one of size 1 it has no weight in any type, and its logarithm is finite.
HIDDEN = 1e-30


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a batch lie, and how many patches each stands for.

    A layout never changes; a reduction makes a new one. All positions are on the finest grid: a token for a coarse cell
    of 2×2 patches has size 4 and its centre between the four patches.

    Args:
        grid (tuple[int, int]): Full patch grid ``(H, W)``, the finest one.
        num_prefix (int): P, class and register tokens of each image; never reduced. Defaults to 0.
        device (torch.device): Device of centres and sizes. Defaults to ``cpu``.
        raster (tuple[int, int], optional): ``(h, w)`` if the patch tokens lie on a raster, in its order.
        packing (Packing, optional): Rows of each image in a ragged batch, prefix included; None for a dense batch.
        padding (Tensor, optional): Patch tokens that stand for padding only, ``(B, n)`` or packed ``(Σn,)``, bool.
        make_coords (Tensor | Callable, optional): See :attr:`coords`; by default those of the raster.
        make_sizes (Tensor | Callable, optional): See :attr:`sizes`; by default those of the raster.
        proportional (bool): Whether attention weighs each key by the size of its token. Defaults to False.
        window (int, optional): Side of the windows that patch tokens attend in, in patches; see :meth:`windowed`.
        window_raster (tuple[int, int], optional): Tokens down and across a whole window, where methods reduce inside
            windows; those at the border may be cut off. See :mod:`mmtoken.core.folding`.
        window_slots (int, optional): Most tokens of a window, where methods reduced inside windows.
    """

    grid: tuple[int, int]
    num_prefix: int = 0
    device: torch.device | str = 'cpu'
    raster: tuple[int, int] | None = None
    packing: Packing | None = None
    padding: Tensor | None = None
    make_coords: Lazy = None
    make_sizes: Lazy = None
    proportional: bool = False
    window: int | None = None
    window_raster: tuple[int, int] | None = None
    window_slots: int | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def full(cls, grid: tuple[int, int], num_prefix: int, device: torch.device, padding: Tensor | None) -> 'Layout':
        """Returns the layout of a batch with one token for each patch."""
        return cls(grid, num_prefix, device, raster=grid, padding=padding)

    @property
    def is_full(self) -> bool:
        """Whether there is one token for each patch, in raster order."""
        return self.raster == self.grid and self.packing is None

    @property
    def coords(self) -> Tensor:
        """Centre ``(y, x)`` of the patches of each token ``(B or 1, n, 2)``, packed ``(Σn, 2)``, fp32.

        The unit is a patch; the first patch is at 0.
        """
        return self._given('coords', self.make_coords, lambda: grid_coords(self.grid, self._raster(), self.device))

    @property
    def sizes(self) -> Tensor:
        """Number of patches that each token stands for ``(B or 1, n)``, packed ``(Σn,)``, fp32."""
        return self._given('sizes', self.make_sizes, self._raster_sizes)

    @property
    def key_bias(self) -> Tensor | None:
        """Logarithm of the sizes for proportional attention ``(B or 1, P+n)``, packed ``(ΣL,)``; prefix tokens get 0.

        None unless ``proportional``. See ToMe, arXiv 2210.09461, eq. 1.
        """
        return self.once('key_bias', self._log_sizes) if self.proportional else None

    @property
    def windows(self) -> Windows | None:
        """The windows that patch tokens attend in; None if they attend to the whole image.

        Tokens on a coarser raster fill windows with fewer slots. Padding takes part, as in attention to the image.
        """
        return None if self.window is None else self.once(('windows', self.window), self._assign)

    def windowed(self, window: int | None) -> 'Layout':
        """Returns the same layout for a block that attends in windows of so many patches a side, or to the image."""
        return self if window == self.window else replace(self, window=window)  # what is made once serves both

    def reduced(self, **changes: Any) -> 'Layout':
        """Returns the layout of other tokens of the same images.

        Args:
            **changes: ``raster``, ``window_raster``, ``window_slots``, ``packing``, ``padding``, ``make_coords``,
                ``make_sizes`` and ``proportional``. The last stays as it is if it is left out; the others are then
                None.
        """
        return Layout(self.grid, self.num_prefix, self.device, **{'proportional': self.proportional, **changes})

    def padded(self, padding: Tensor | None) -> 'Layout':
        """Returns the same layout with another ``padding``."""
        return replace(self, padding=padding, _made={})

    def hiding(self, hidden: Tensor) -> 'Layout':
        """Returns the same layout with tokens that no token attends to, as if they were not there.

        Args:
            hidden (Tensor): Patch tokens ``(B, n)`` or packed ``(Σn,)``, bool.
        """
        # Sizes weigh keys; none at all would leave nan where every token of an image is hidden.
        return replace(self, make_sizes=self.sizes.masked_fill(hidden, HIDDEN), proportional=True, _made={})

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Returns ``make()``, made once for this layout, so that rotations or windows serve all blocks on its tokens.

        Args:
            key (Hashable): What it is, with all that it depends on beside the layout.
            make (Callable): Makes it, without gradient.
        """
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _given(self, name: str, given: Lazy, default: Callable[[], Tensor]) -> Tensor:
        made = default if given is None else given
        return self.once(name, made if callable(made) else lambda: made)

    def _assign(self) -> Windows:
        assert self.window is not None
        slots, packing = self.window_slots, self.packing
        if slots is None and self.raster is not None:
            slots = prod([-(-min(self.window, full) * few // full) for few, full in zip(self.raster, self.grid)])
        if packing is not None and self.num_prefix:
            packing = packing.without(self.num_prefix)
        return assign_windows(self.coords, self.grid, self.window, slots=slots, packing=packing)

    def _raster(self) -> tuple[int, int]:
        if self.raster is None:
            raise ValueError(
                'Tokens on no raster need centres and sizes of their own: give make_coords and make_sizes.'
            )
        return self.raster

    def _raster_sizes(self) -> Tensor:
        h, w = self._raster()
        return torch.full((1, h * w), self.grid[0] * self.grid[1] / (h * w), device=self.device)

    def _log_sizes(self) -> Tensor:
        bias = self.sizes.log()
        if self.packing is None:
            return F.pad(bias, (self.num_prefix, 0))
        zeros = bias.new_zeros(self.packing.total)
        return zeros.index_copy(0, self.packing.rows_from(self.num_prefix), bias)
