"""Cells of 2×2 patches on a grid, and the sequence of coarse and fine tokens that they make."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Cells:
    """Cells of 2×2 patches; patches of an odd last row or column belong to none and always stay fine.

    Args:
        grid (tuple[int, int]): Patch grid ``(H, W)``.
        device (torch.device): Device of the index tensors.
    """

    grid: tuple[int, int]
    device: torch.device

    @property
    def shape(self) -> tuple[int, int]:
        """Cells ``(h, w) = (⌊H/2⌋, ⌊W/2⌋)``."""
        return self.grid[0] // 2, self.grid[1] // 2

    @property
    def number(self) -> int:
        """Number of cells h·w."""
        return self.shape[0] * self.shape[1]

    @property
    def outside(self) -> int:
        """Patches that belong to no cell."""
        return self.grid[0] * self.grid[1] - 4 * self.number

    def of_patches(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns for each patch its cell, whether it is in one, and the first patch of its cell.

        Returns:
            tuple[Tensor, Tensor, Tensor]: ``(H·W,)`` each: int64 (0 if it is in none), bool, int64 (itself then).
        """
        (height, width), (h, w) = self.grid, self.shape
        y = torch.arange(height, device=self.device)[:, None].expand(height, width)
        x = torch.arange(width, device=self.device)[None].expand(height, width)
        inside = (y < 2 * h) & (x < 2 * w)
        cell = torch.where(inside, y // 2 * w + x // 2, 0)
        first = torch.where(inside, y // 2 * 2 * width + x // 2 * 2, y * width + x)
        return cell.flatten(), inside.flatten(), first.flatten()

    def to_cells(self, patches: Tensor) -> Tensor:
        """Returns the four patches of each cell: ``(B, H·W)`` → ``(B, h·w, 4)``."""
        h, w = self.shape
        plane = patches.unflatten(1, self.grid)[:, : 2 * h, : 2 * w]
        return plane.unflatten(2, (w, 2)).unflatten(1, (h, 2)).transpose(2, 3).flatten(3).flatten(1, 2)

    def lead(self, fine: Tensor) -> tuple[Tensor, Tensor]:
        """Returns which patches share a token with their cell, and the patch in whose place the token of each stands.

        Args:
            fine (Tensor): Which cells stay fine ``(B, h·w)``, bool.

        Returns:
            tuple[Tensor, Tensor]: Patches of coarse cells ``(B, H·W)``, bool; and for these the first patch of their
            cell, for the others themselves, ``(B, H·W)``, int64.
        """
        cell, inside, first = self.of_patches()
        coarse = inside & ~fine[:, cell]
        return coarse, torch.where(coarse, first, torch.arange(len(first), device=self.device))


def whole_patches(images: Tensor, grid: tuple[int, int], patch: int, padding: Tensor | None) -> Tensor:
    """Returns pictures of whole patches, with zeros where the batch is padded.

    Args:
        images (Tensor): ``(B, 3, h, w)``.
        grid (tuple[int, int]): Patches ``(H, W)``.
        patch (int): Side of a patch in pixels.
        padding (Tensor, optional): Patches that hold nothing but padding ``(B, H, W)``, bool.

    Returns:
        Tensor: ``(B, 3, H·patch, W·patch)``.
    """
    down, across = (n * patch - side for n, side in zip(grid, images.shape[-2:]))
    images = F.pad(images, (0, across, 0, down))  # less than none where the backbone leaves out a rest
    if padding is None:
        return images
    return images.masked_fill(padding[:, None].repeat_interleave(patch, 2).repeat_interleave(patch, 3), 0)
