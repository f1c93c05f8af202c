"""Rotary position embeddings as pure functions of token centres.

A rotation turns pairs of channels of q and k by angles that are linear in the position, so the score of two tokens
depends on the difference of their positions only. Centres may lie between patches, as those of merged tokens do.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .packing import Packing

#: What DINOv3 divides positions by: each axis by its own side, or both by the longer or the shorter one.
NORMALIZE = ('separate', 'max', 'min')


@dataclass(frozen=True)
class Rotation:
    """How far each pair of channels of each token is turned.

    Args:
        sin (Tensor): Sines of the angles, one for each pair, ``(B or 1, n, d/2)``; packed ``(Σn, d/2)``.
        cos (Tensor): Cosines of the angles, in the same shape.
        interleaved (bool): True pairs channels ``2i`` and ``2i+1`` (EVA-02), False pairs ``i`` and ``i + d/2``
            (DINOv3).
    """

    sin: Tensor
    cos: Tensor
    interleaved: bool

    def with_prefix(self, length: int, packing: Packing | None = None) -> 'Rotation':
        """Adds rows that leave the prefix tokens of each image as they are.

        Args:
            length (int): Tokens of each image, prefix included; ignored for a packed batch.
            packing (Packing, optional): Where the images of a packed batch lie, prefix included.

        Returns:
            Rotation: One row a token: ``(B or 1, length, d/2)``, packed ``(ΣL, d/2)``.

        Raises:
            ValueError: If the tokens and the rows do not differ by the same number of prefix tokens in each image.
        """
        rows = self.sin.shape[-2]
        if packing is None:
            prefix = length - rows
            if prefix < 0:
                raise ValueError(f'rotate= has {rows} rows for {length} tokens; give one for each patch token.')
            sin, cos = (F.pad(t, (0, 0, prefix, 0), value=one) for t, one in ((self.sin, 0.0), (self.cos, 1.0)))
            return Rotation(sin, cos, self.interleaved)
        prefix, rest = divmod(packing.total - rows, max(len(packing), 1))
        if prefix < 0 or rest:
            raise ValueError(
                f'rotate= has {rows} rows for {packing.total} tokens of {len(packing)} images; give one for each '
                'patch token.'
            )
        patches = packing.rows_from(prefix)
        sin = self.sin.new_zeros(packing.total, self.sin.shape[-1]).index_copy(0, patches, self.sin)
        cos = self.cos.new_ones(packing.total, self.cos.shape[-1]).index_copy(0, patches, self.cos)
        return Rotation(sin, cos, self.interleaved)

    def __call__(self, x: Tensor) -> Tensor:
        """Rotates queries or keys.

        Args:
            x (Tensor): ``(B, n, heads, d)`` or packed ``(Σn, heads, d)``, one row of this rotation a token.

        Returns:
            Tensor: In shape and dtype of ``x``; half precision is rotated in fp32 and rounded once.
        """
        sin, cos = self.sin[..., None, :], self.cos[..., None, :]
        pairs, axis = ((-1, 2), -1) if self.interleaved else ((2, -1), -2)
        first, second = x.unflatten(-1, pairs).unbind(axis)
        turned = torch.stack((first * cos - second * sin, second * cos + first * sin), axis)
        return turned.flatten(-2).to(x.dtype)


def rotary_eva02(
    coords: Tensor,
    grid: tuple[int, int],
    head_dim: int,
    *,
    reference: tuple[int, int] | None = (16, 16),
    temperature: float = 10000.0,
) -> Rotation:
    """EVA-02's rotation (arXiv 2303.11331): ``angle_j = p · temperature^(-4j/d)`` for each axis, ``j < d/4``.

    Positions are rescaled to the grid of pretraining: ``p = coordinate / side · reference side``. The first half of
    the pairs turns with y, the second with x.

    Args:
        coords (Tensor): Centres ``(y, x)`` in patches, ``(B or 1, n, 2)`` or packed ``(Σn, 2)``, first patch at 0.
        grid (tuple[int, int]): Patches ``(H, W)`` that the positions span: the grid; the window in windowed blocks of
            EVA-02's detectors.
        head_dim (int): d, channels of a head, a multiple of 4.
        reference (tuple[int, int], optional): Grid of pretraining; None leaves positions in patches. Defaults to
            (16, 16).
        temperature (float): Base of the frequencies. Defaults to 10000.

    Returns:
        Rotation: One row for each centre, channels interleaved.

    Raises:
        ValueError: If ``head_dim`` is not a multiple of 4.
    """
    _check(head_dim)
    bands = torch.arange(head_dim // 4, device=coords.device, dtype=coords.dtype) / (head_dim // 4)
    frequencies = 1.0 / temperature**bands
    positions = list(coords.unbind(-1))
    if reference is not None:
        positions = [p / side * before for p, side, before in zip(positions, grid, reference)]
    return _rotation([p[..., None] * frequencies for p in positions], interleaved=True)


def rotary_dinov3(
    coords: Tensor,
    grid: tuple[int, int],
    head_dim: int,
    *,
    base: float = 100.0,
    normalize: str = 'separate',
    periods: Tensor | None = None,
) -> Rotation:
    """DINOv3's rotation (arXiv 2508.10104): ``angle_j = 2π · p · base^(-4j/d)`` for each axis, ``j < d/4``.

    Positions run from -1 to 1 over the picture: ``p = 2 · (coordinate + 1/2) / side - 1``. The first half of the
    pairs turns with y, the second with x.

    Args:
        coords (Tensor): Centres ``(y, x)`` in patches, ``(B or 1, n, 2)`` or packed ``(Σn, 2)``, first patch at 0.
        grid (tuple[int, int]): Patches ``(H, W)`` of the picture.
        head_dim (int): d, channels of a head, a multiple of 4.
        base (float): Base of the periods. Defaults to 100.
        normalize (str): Divides each axis by its own side (``separate``), or both by the longer (``max``) or the
            shorter one (``min``). Defaults to ``separate``.
        periods (Tensor, optional): Periods ``(d/4,)`` to take instead of ``base``; checkpoints hold them rounded to
            bf16.

    Returns:
        Rotation: One row for each centre, the first half of the channels paired with the second.

    Raises:
        ValueError: If ``head_dim`` is not a multiple of 4 or ``normalize`` is unknown.
    """
    _check(head_dim)
    if normalize not in NORMALIZE:
        raise ValueError(f"normalize='{normalize}' is no way to divide positions; choose one of {NORMALIZE}.")
    if periods is None:
        bands = torch.arange(head_dim // 4, device=coords.device, dtype=coords.dtype) / (head_dim // 4)
        periods = base**bands
    sides = dict(separate=grid, max=(max(grid),) * 2, min=(min(grid),) * 2)[normalize]
    positions = [2.0 * ((p + 0.5) / side) - 1.0 for p, side in zip(coords.unbind(-1), sides)]
    return _rotation([2 * math.pi * p[..., None] / periods.to(coords.dtype) for p in positions], interleaved=False)


def _check(head_dim: int) -> None:
    if head_dim % 4:
        raise ValueError(f'head_dim={head_dim} cannot hold pairs for two axes; use a multiple of 4.')


def _rotation(angles: list[Tensor], interleaved: bool) -> Rotation:
    angle = torch.cat(angles, dim=-1)
    return Rotation(angle.sin(), angle.cos(), interleaved)
