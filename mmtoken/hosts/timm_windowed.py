"""Attention of ViTDet's and EVA-02's backbones: windows that are filled up, rotary positions, a bias of the scores."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtoken.core import Layout, Rotation, Windows, partition, self_attention, unpartition, window_attention

from .timm_base import TimmHost

#: Rows and columns of a raster, or the centres of tokens ``(B or 1, n, 2)``.
Centres = tuple[Tensor, Tensor] | Tensor


def lines_of(grid: tuple[int, int], raster: tuple[int, int], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Returns the centres of the rows ``(h,)`` and columns ``(w,)`` of a raster, in patches of the grid."""
    rows, columns = (
        (torch.arange(few, device=device, dtype=torch.float32) + 0.5) * (full / few) - 0.5
        for full, few in zip(grid, raster)
    )
    return rows, columns


def centres_inside(windows: Windows, grid: tuple[int, int]) -> Tensor:
    """Returns the centres of tokens ``(count or B·count, slots, 2)``, in patches from the first one of their window."""
    height, width = windows.size
    centres = windows.split(windows.coords.expand(*windows.place.shape, 2))
    number, across = torch.arange(windows.count, device=centres.device), -(-grid[1] // width)
    origin = torch.stack([number.div(across, rounding_mode='floor') * height, number % across * width], -1)
    return centres - origin.repeat(len(centres) // windows.count, 1)[:, None]


class WindowedTimmHost(TimmHost):
    """A model of timm with rotary positions or a bias of the scores, and windows as ViTDet has them.

    Where the full grid is no multiple of the window and there are no prefix tokens, zeros fill it up and take part in
    attention (arXiv 2203.16527). Reduced tokens attend to those whose centres lie in the same window.
    """

    #: Whether there is a :meth:`bias`.
    is_biased: bool = False

    def init_windows(self, size: int | None, global_blocks: Sequence[int] | None = None) -> None:
        """See :meth:`TokenHost.init_windows`.

        A picture that keeps all of its tokens has its windows filled up, and one in a packed batch has not: so that
        batch mates do not matter, a backbone with such windows packs nothing.
        """
        super().init_windows(size, global_blocks)
        self.ragged = bool(self.num_prefix) or not any(self.block_windows)

    def bias(self, attn: Any, q: Tensor, sides: tuple[int, int], centres: Centres) -> Tensor:
        """Returns the bias of the scores ``(B, heads, n, n)``.

        Args:
            attn (nn.Module): Attention of the block.
            q (Tensor): Queries ``(B, heads, n, d)``; windows are the batch in a windowed block.
            sides (tuple[int, int]): Patches that the positions span: the grid or the window.
            centres (tuple[Tensor, Tensor] | Tensor): Rows and columns in patches of tokens on a raster; else the
                centres of the tokens ``(B or 1, n, 2)``.
        """
        raise NotImplementedError

    def attention(self, attn, x, layout):
        options: dict[str, Any] = dict(dropout_p=attn.attn_drop.p if attn.training else 0.0)
        if layout.window is not None and layout.is_full and not layout.num_prefix:
            return self.attend_in_windows_of_the_grid(attn, x, layout, layout.window, options)
        qkv = self.project(attn, x)
        options.update(lengths=layout.packing, rotate=self.rotation(layout), key_bias=layout.key_bias)
        windows = layout.windows
        if windows is None:
            if self.is_biased:
                options['bias'] = self.bias(attn, *self.rows(qkv, layout))
            return self_attention(qkv, self.num_heads, **options)
        if self.is_biased:
            key = ('centres', layout.window)
            inside = layout.once(key, lambda: centres_inside(windows, layout.grid))
            options['bias'] = lambda q: self.bias(attn, q, windows.size, inside)
        return window_attention(qkv, self.num_heads, windows, num_prefix=layout.num_prefix, **options)

    def attend_in_windows_of_the_grid(
        self, attn: Any, x: Tensor, layout: Layout, window: int, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Runs attention inside windows that fill up the full grid; see :meth:`attention`."""
        grid, sides, fill, bias = layout.grid, (window, window), None, None
        if grid[0] % window or grid[1] % window:  # zeros before the projection, which may have a bias
            x = F.pad(x, (0, 0, 0, 1))
        qkv = self.project(attn, x)
        if qkv.shape[1] > math.prod(grid):
            qkv, fill = qkv[:, :-1], qkv[:, -1:, None]
        inside, rotate = partition(qkv, grid, window, fill), self.rotation(layout)
        if rotate is not None:
            sin, cos = (partition(part, grid, window).repeat(len(qkv), 1, 1) for part in (rotate.sin, rotate.cos))
            rotate = Rotation(sin, cos, rotate.interleaved)
        if self.is_biased:
            bias = self.bias(attn, self.queries(inside), sides, lines_of(sides, sides, qkv.device))
        out, _ = self_attention(inside, self.num_heads, rotate=rotate, bias=bias, **options)
        return unpartition(out, grid, window), qkv.unflatten(-1, (3, self.num_heads, -1)).select(-3, 1)

    def rows(self, qkv: Tensor, layout: Layout) -> tuple[Tensor, tuple[int, int], Centres]:
        """Returns queries ``(B, heads, n, d)`` of all tokens, padded to the longest image, the grid, and centres."""
        centres: Centres = (
            layout.coords if layout.raster is None else lines_of(layout.grid, layout.raster, layout.device)
        )
        if layout.packing is not None:
            qkv, centres = layout.packing.pad(qkv), layout.packing.pad(layout.coords)
        return self.queries(qkv), layout.grid, centres

    def queries(self, qkv: Tensor) -> Tensor:
        """Returns the queries ``(B, heads, n, d)`` of a joint projection."""
        return qkv.unflatten(-1, (3, self.num_heads, -1)).select(-3, 0).transpose(1, 2)
