"""Attention in shifted windows (Swin, arXiv 2103.14030, section 3.2), at any size of window."""

import torch
from torch import Tensor

from .attention import dense_attention
from .layout import Layout
from .windows import assign_windows, read_bias, window_attention

Pair = tuple[int, int]

#: Bias between patches that the cyclic shift brings into one window: that of the published models.
APART = -100.0


def position_bias(table: Tensor, side: int, slots: Pair) -> Tensor:
    """Returns the relative position bias of windows of so many tokens, read at the offsets of their centres.

    With fewer tokens than patches the table is read between its entries, bilinearly; it stays as it is.

    Args:
        table (Tensor): Bias of each offset ``((2·side - 1)², heads)``.
        side (int): Side of a window in patches.
        slots (tuple[int, int]): Tokens ``(h, w)`` down and across a window.

    Returns:
        Tensor: ``(heads, h·w, h·w)``, from the query to the key.
    """
    plane = table.unflatten(0, (2 * side - 1, 2 * side - 1))
    if slots == (side, side):
        plane = plane.movedim(-1, 0)
    else:
        offsets = [torch.arange(1 - n, n, device=table.device) * (side / n) for n in slots]
        plane = read_bias(plane, torch.stack(torch.meshgrid(*offsets, indexing='ij'), -1))
    y, x = (torch.arange(n, device=table.device) for n in slots)
    y, x = (t[:, None] - t + len(t) - 1 for t in (y, x))
    return plane[:, y[:, None, :, None], x[None, :, None, :]].flatten(3, 4).flatten(1, 2)


def shift_mask(raster: Pair, window: Pair, shift: Pair, device: torch.device | str) -> Tensor:
    """Returns :data:`APART` between tokens that only the cyclic shift brings into one window, and zero elsewhere.

    Args:
        raster (tuple[int, int]): Tokens down and across, multiples of the window's.
        window (tuple[int, int]): Tokens down and across a window.
        shift (tuple[int, int]): Tokens by which the raster is rolled up and to the left.
        device (torch.device | str): Of the mask.

    Returns:
        Tensor: ``(count, h·w, h·w)``.
    """
    lines = []
    for n, side, by in zip(raster, window, shift):
        place = torch.arange(n, device=device)
        lines.append((place >= n - side).long() + (place >= n - by).long())  # by = 0: no token is that far
    area = (3 * lines[0][:, None] + lines[1]).unflatten(1, (-1, window[1])).unflatten(0, (-1, window[0]))
    area = area.transpose(1, 2).flatten(2).flatten(0, 1)
    return torch.zeros(1, device=device).masked_fill(area[:, :, None] != area[:, None], APART)


def raster_attention(
    qkv: Tensor,
    num_heads: int,
    layout: Layout,
    slots: Pair,
    shift: Pair,
    bias: Tensor,
    fill: Tensor | None,
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Self-attention inside windows of tokens on a raster, as Swin's.

    Args:
        qkv (Tensor): Joint projection ``(B, H·W, 3·C)``; q, k and v one after the other, each head by head.
        num_heads (int): Attention heads.
        layout (Layout): Where the tokens lie; its raster ``(H, W)`` need be no multiple of the window.
        slots (tuple[int, int]): Tokens ``(h, w)`` down and across a window.
        shift (tuple[int, int]): Tokens by which windows are shifted down and to the right.
        bias (Tensor): Added to the scores, ``(heads, h·w, h·w)``.
        fill (Tensor): What fills up the windows at the bottom and on the right, and takes part in attention, as
            zeros before the projection do: ``(B, 1, 1, 3·C)``; None if nothing is to be filled up.
        scale (float, optional): Factor of ``q·k``; ``d ** -0.5`` if None.
        dropout_p (float): Dropout of the attention weights. Defaults to 0.

    Returns:
        tuple[Tensor, Tensor]: Attended values ``(B, H·W, C)`` before the output projection, and the keys
        ``(B, H·W, heads, d)``.
    """
    assert layout.raster is not None
    height, width = layout.raster
    dims = qkv.shape[-1] // (3 * num_heads)
    keys = qkv.unflatten(-1, (3, num_heads, dims)).select(-3, 1)
    x = qkv.unflatten(1, (height, width))
    for axis, side in zip((1, 2), slots):
        more = list(x.shape)
        more[axis] = -more[axis] % side
        if more[axis] and fill is not None:
            x = torch.cat([x, fill.to(x.dtype).expand(more)], dim=axis)
    full = (x.shape[1], x.shape[2])
    if any(shift):
        x = x.roll((-shift[0], -shift[1]), (1, 2))
    down, across = full[0] // slots[0], full[1] // slots[1]
    x = x.unflatten(2, (across, slots[1])).unflatten(1, (down, slots[0])).unflatten(-1, (3, num_heads, dims))
    q, k, v = x.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(2, 3)  # each (B, count, heads, slots, d)
    if any(shift):  # each window has a mask of its own, which serves all images
        mask = layout.once((slots, shift, full), lambda: shift_mask(full, slots, shift, qkv.device))
        bias = (bias + mask.to(bias.dtype)[:, None]).flatten(0, 1)
        q, k, v = (t.flatten(1, 2) for t in (q, k, v))
    else:
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    out = dense_attention(q, k, v, scale=scale, bias=bias[None], dropout_p=dropout_p)
    out = out.reshape(qkv.shape[0], down, across, num_heads, *slots, dims).permute(0, 1, 4, 2, 5, 3, 6)
    out = out.flatten(5, 6).flatten(3, 4).flatten(1, 2)
    if any(shift):
        out = out.roll(shift, (1, 2))
    return out[:, :height, :width].flatten(1, 2), keys


def scattered_attention(
    qkv: Tensor,
    num_heads: int,
    layout: Layout,
    side: int,
    shift: int,
    table: Tensor,
    fill: Tensor | None,
    *,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Self-attention inside windows of tokens on no raster, such as merged ones, at their centres.

    Args:
        qkv (Tensor): Joint projection ``(B, n, 3·C)``.
        num_heads (int): Attention heads.
        layout (Layout): Where the tokens lie.
        side (int): Side of a window in patches.
        shift (int): Patches by which windows are shifted down and to the right.
        table (Tensor): Relative position bias ``((2·side - 1)², heads)``.
        fill (Tensor): See :func:`raster_attention`.
        scale (float, optional): Factor of ``q·k``; ``d ** -0.5`` if None.
        dropout_p (float): Dropout of the attention weights. Defaults to 0.

    Returns:
        tuple[Tensor, Tensor]: See :func:`raster_attention`.
    """
    batch, n = qkv.shape[:2]
    grid, key_bias, coords = layout.grid, layout.key_bias, layout.coords
    full = (-(-grid[0] // side) * side, -(-grid[1] // side) * side)
    if full != grid and fill is not None:  # what fills up the grid takes part, as it does before tokens are merged
        y, x = torch.meshgrid(*(torch.arange(length, device=qkv.device) for length in full), indexing='ij')
        beyond = torch.stack([y, x], -1)[(y >= grid[0]) | (x >= grid[1])].float()[None]
        qkv = torch.cat([qkv, fill[:, 0].to(qkv.dtype).expand(batch, beyond.shape[1], -1)], 1)
        coords = torch.cat([coords, beyond.expand(coords.shape[0], -1, -1)], 1)
        if key_bias is not None:
            key_bias = torch.cat([key_bias, key_bias.new_zeros(key_bias.shape[0], beyond.shape[1])], 1)
    count = full[0] * full[1] // side**2
    # Without a shift all windows have the same number of tokens.
    slots = n // count if full == grid and not shift else side**2
    windows = layout.once(
        (side, shift, 'scattered'), lambda: assign_windows(coords, full, side, shift=shift, slots=slots)
    )
    plane = table.unflatten(0, (2 * side - 1, 2 * side - 1))
    out, keys = window_attention(
        qkv,
        num_heads,
        windows,
        bias=read_bias(plane, windows.offsets()),
        key_bias=key_bias,
        scale=scale,
        dropout_p=dropout_p,
    )
    return out[:, :n], keys[:, :n]
