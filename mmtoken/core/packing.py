"""Where the images of a ragged batch lie in its packed rows."""

from functools import cached_property
from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops import indices_of


class Packing:
    """Images of unequal token counts, one after the other in packed rows ``(ΣL, …)``.

    Making one copies the lengths to the CPU. This is the only GPU→CPU sync of a ragged batch, once whenever its token
    counts change.

    Args:
        lengths (Tensor): Rows of each image ``(B,)``, int64.
        sizes (list[int], optional): The same numbers, if the CPU knows them already; then nothing is synced.
    """

    def __init__(self, lengths: Tensor, sizes: list[int] | None = None):
        self.lengths = lengths
        self.sizes: list[int] = lengths.tolist() if sizes is None else sizes
        self.total, self.longest = sum(self.sizes), max(self.sizes, default=0)

    @classmethod
    def of(cls, lengths: Union[Tensor, 'Packing']) -> 'Packing':
        """Returns a packing of ``lengths``; ``lengths`` itself if it is one already."""
        return lengths if isinstance(lengths, Packing) else cls(lengths)

    @classmethod
    def even(cls, batch: int, length: int, device: torch.device) -> 'Packing':
        """Makes the packing of images of one length, as in a dense batch, without a sync."""
        return cls(torch.full((batch,), length, device=device), [length] * batch)

    def without(self, first: int) -> 'Packing':
        """Returns the packing without the ``first`` rows of each image, without a sync."""
        return Packing(self.lengths - first, [size - first for size in self.sizes])

    @property
    def is_even(self) -> bool:
        """Whether all images have the same length."""
        return self.total == self.longest * len(self)

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def ends(self) -> Tensor:
        """Where images begin and end ``(B+1,)``, int64, from 0 to ΣL."""
        return F.pad(self.lengths.cumsum(0), (1, 0))

    @cached_property
    def image(self) -> Tensor:
        """Image of each row ``(ΣL,)``, int64."""
        images = torch.arange(len(self), device=self.lengths.device)
        return images.repeat_interleave(self.lengths, output_size=self.total)

    @cached_property
    def place(self) -> Tensor:
        """Place of each row in its image ``(ΣL,)``, int64, from 0."""
        return torch.arange(self.total, device=self.lengths.device) - self.ends[self.image]

    @cached_property
    def valid(self) -> Tensor:
        """Slots of the padded batch that hold a row ``(B, longest)``, bool."""
        return torch.arange(self.longest, device=self.lengths.device) < self.lengths[:, None]

    def rows_from(self, first: int) -> Tensor:
        """Returns the rows of all tokens but the ``first`` ones of each image, int64; every image must have these."""
        return indices_of(self.place >= first, self.total - first * len(self))

    def pad(self, x: Tensor) -> Tensor:
        """Pads packed rows: ``(ΣL, …)`` → ``(B, longest, …)``, zero in empty slots."""
        slots = x.new_zeros(len(self) * self.longest, *x.shape[1:])
        return slots.index_copy(0, self.image * self.longest + self.place, x).unflatten(0, (len(self), self.longest))

    def unpad(self, x: Tensor) -> Tensor:
        """Packs padded rows: ``(B, longest, …)`` → ``(ΣL, …)``."""
        return x.flatten(0, 1)[self.image * self.longest + self.place]
