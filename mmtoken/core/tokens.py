"""Tokens: what a backbone gives a head that reads tokens instead of maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .layout import Layout
from .packing import Packing


@dataclass(frozen=True)
class Tokens:
    """Patch tokens of a batch, packed one image after the other, with where they lie and what they stand for.

    A dense batch is packed too, so that a head has one way to read tokens. Tokens that stand for padding only are left
    out. All positions are on the finest grid, see :class:`Layout`.

    Args:
        x (Tensor): ``(Σn, C)``.
        packing (Packing): Rows of each image.
        coords (Tensor): Centre ``(y, x)`` of each token ``(Σn, 2)``, fp32, in patches; the first patch is at 0.
        sizes (Tensor): Number of patches that each token stands for ``(Σn,)``, fp32.
    """

    x: Tensor
    packing: Packing
    coords: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, patches: Tensor, layout: Layout) -> Tokens:
        """Packs the patch tokens of a state.

        Syncs GPU→CPU once if there is padding, and never otherwise.

        Args:
            patches (Tensor): ``(B, n, C)``, or packed ``(Σn, C)``.
            layout (Layout): Their layout.
        """
        coords, sizes, padding = layout.coords, layout.sizes, layout.padding
        if layout.packing is None:
            batch, number = patches.shape[:2]
            packing = Packing.even(batch, number, patches.device)
            patches = patches.flatten(0, 1)
            coords = coords.expand(batch, -1, -1).flatten(0, 1)
            sizes = sizes.expand(batch, -1).flatten()
            padding = None if padding is None else padding.expand(batch, -1).flatten()
        else:
            packing = layout.packing.without(layout.num_prefix)
        if padding is not None:
            lengths = torch.zeros_like(packing.lengths).index_add(0, packing.image, (~padding).long())
            patches, coords, sizes = patches[~padding], coords[~padding], sizes[~padding]
            packing = Packing(lengths)
        return cls(patches, packing, coords, sizes)

    def split(self) -> list[Tokens]:
        """Returns a batch of one for each image, without a sync."""
        lengths = self.packing.sizes
        parts = zip(self.packing.lengths.split(1), *(v.split(lengths) for v in (self.x, self.coords, self.sizes)))
        return [Tokens(x, Packing(n, [len(x)]), coords, sizes) for n, x, coords, sizes in parts]

    @property
    def levels(self) -> Tensor:
        """Level of each token ``(Σn,)``, int64: 0 for one patch, 1 for about 2×2, 2 for about 4×4 patches."""
        return (self.sizes.log2() / 2).round().long()
