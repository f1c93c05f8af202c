"""What the decoder reads: the tokens of a picture, with a code of their places and resolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmtoken.core import Packing, Tokens


def sine(positions: Tensor, dims: int, temperature: float = 20.0) -> Tensor:
    """Returns the sine code of numbers between 0 and 1 (DAB-DETR, eq. 4).

    Args:
        positions (Tensor): ``(…, K)``.
        dims (int): Channels of each number, even.
        temperature (float): T in ``sin(2π·x / T^(2i/dims))``. Defaults to 20.

    Returns:
        Tensor: ``(…, K·dims)``: for each number sine and cosine in turn.
    """
    steps = torch.arange(dims // 2, device=positions.device, dtype=torch.float32) * 2 / dims
    angles = positions[..., None].float() * (2 * math.pi) / temperature**steps
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


@dataclass(frozen=True)
class Memory:
    """What the decoder reads: the tokens of all pictures, packed.

    Args:
        x (Tensor): Tokens ``(Σn, C)``.
        position (Tensor): Their positional code ``(Σn, C)``.
        packing (Packing): Rows of each picture.
    """

    x: Tensor
    position: Tensor
    packing: Packing


class TokenMemory(nn.Module):
    """Turns the backbone's tokens into what the decoder reads: a projection, and a code of place and level.

    Args:
        in_dims (int): Channels of a token.
        dims (int): Channels C of the decoder. Defaults to 768.
        levels (int): Resolutions: tokens of 1, 2×2, 4×4… patches. Defaults to 3.
        temperature (float): Of the sine code. Defaults to 20.
    """

    def __init__(self, in_dims: int, dims: int = 768, levels: int = 3, temperature: float = 20.0):
        super().__init__()
        self.temperature = temperature
        self.project = nn.Linear(in_dims, dims)
        self.level = nn.Parameter(torch.zeros(levels, dims))

    def init_weights(self) -> None:
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        nn.init.normal_(self.level, std=0.1)  # small beside the codes of places, by which the decoder looks at first

    def forward(self, tokens: Tokens, patch_size: int, side: int) -> Memory:
        """Returns the memory of a batch.

        Args:
            tokens (Tokens): Patch tokens of the batch.
            patch_size (int): Pixels of a patch.
            side (int): Longest side S of a picture, pixels.
        """
        x = self.project(tokens.x)
        code = sine((tokens.coords + 0.5) * (patch_size / side), x.shape[-1] // 2, self.temperature)
        level = self.level[tokens.levels.clamp(max=len(self.level) - 1)]
        return Memory(x, code.to(x.dtype) + level.to(x.dtype), tokens.packing)
