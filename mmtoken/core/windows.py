"""Attention inside windows.

Each token, also a merged or clustered one, is put into a slot of the window that its centre lies in, windows become the
batch, and empty slots are masked. Shapes depend on the number of tokens only, so a reduced windowed model stays static.
:func:`partition` cuts the full grid as ViTDet does, which fills up the windows at the border.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import attention
from .packing import Packing
from .rotary import Rotation

if TYPE_CHECKING:
    from .layout import Layout

#: Bias of an empty slot: ``exp`` of it is zero. Finite, also times a scale in fp16, it keeps empty windows free of NaN.
EMPTY = -3e4

#: Part of a patch by which a centre may miss a border: rounding must not decide the side of a centre on the border.
SLACK = 1e-3


@dataclass(frozen=True)
class Windows:
    """The slot of each token; made by :func:`assign_windows` and good until the tokens change.

    Args:
        place (Tensor): Slot of each token among the ``count · slots`` of its image, ``(B or 1, n)``, packed ``(ΣL,)``,
            int64; ``count · slots`` for a token that takes no part.
        coords (Tensor): Centres of the tokens, ``(B or 1, n, 2)``, packed ``(ΣL, 2)``.
        count (int): Windows of an image.
        slots (int): Slots of a window.
        size (tuple[int, int]): Sides of a window in patches.
        packing (Packing, optional): Where the images of a packed batch lie, without prefix tokens.
        is_filled (bool): Whether each slot holds a token. Defaults to False.
    """

    place: Tensor
    coords: Tensor
    count: int
    slots: int
    size: tuple[int, int]
    packing: Packing | None = None
    is_filled: bool = False

    def split(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """Sorts tokens ``(B, n, …)``, packed ``(ΣL, …)``, into ``(B·count, slots, …)``; empty slots hold ``fill``."""
        if self.packing is None:
            batch, x = x.shape[0], x.flatten(0, 1)
        else:
            batch = len(self.packing)
        # one row more takes all tokens without a slot
        slots = x.new_full((batch * self.count * self.slots + 1, *x.shape[1:]), fill)
        return slots.index_copy(0, self._rows(batch), x)[:-1].unflatten(0, (batch * self.count, self.slots))

    def join(self, x: Tensor) -> Tensor:
        """Undoes :meth:`split`: ``(B·count, slots, …)`` → ``(B, n, …)``, packed ``(ΣL, …)``.

        Tokens without a slot get zeros.
        """
        batch = x.shape[0] // self.count
        slots = torch.cat([x.flatten(0, 1), x.new_zeros(1, *x.shape[2:])])
        x = slots.index_select(0, self._rows(batch))
        return x if self.packing is not None else x.unflatten(0, (batch, self.place.shape[1]))

    def offsets(self) -> Tensor:
        """Query's centre minus key's centre, for a position bias; see :func:`read_bias`.

        Returns:
            Tensor: ``(B·count or count, slots, slots, 2)`` in patches, cut off at ``±(side - 1)`` so that a table of a
            window's offsets holds all of them; meaningless where a slot is empty.
        """
        centres = self.split(self.coords.expand(*self.place.shape, 2))
        offsets = (centres[:, :, None] - centres[:, None]).unbind(-1)
        return torch.stack([o.clamp(1 - side, side - 1) for o, side in zip(offsets, self.size)], dim=-1)

    def _rows(self, batch: int) -> Tensor:
        """Rows of the tokens among the slots of all images; the row after the last for those without a slot."""
        total = self.count * self.slots
        image = torch.arange(batch, device=self.place.device)[:, None] if self.packing is None else self.packing.image
        return (image * total + self.place).masked_fill(self.place == total, batch * total).flatten()


def assign_windows(
    coords: Tensor,
    grid: tuple[int, int],
    window: int | tuple[int, int],
    *,
    shift: int | tuple[int, int] = 0,
    slots: int | None = None,
    valid: Tensor | None = None,
    packing: Packing | None = None,
) -> Windows:
    """Puts each token into a slot of the window that its centre lies in, without a GPU→CPU sync.

    Window k of an axis spans the patches ``shift + k·w … shift + (k+1)·w - 1``, cut off at the border of the grid: the
    same groups as Swin's cyclic shift with its mask (arXiv 2103.14030, section 3.2). A centre on a border between two
    windows belongs to the later one.

    Patches and their subsets, and merges within windows, fill at most ``w²`` slots. Merges of patches far apart may
    crowd their centres into one window; what finds no slot moves on, in raster order, to the next window that has one
    (or back, at the end of the grid). So no token is lost, and none depends on other images.

    Args:
        coords (Tensor): Centres ``(y, x)`` in patches of ``grid``, first patch at 0, ``(B or 1, n, 2)``, packed
            ``(ΣL, 2)``.
        grid (tuple[int, int]): Patches ``(H, W)``; windows need not divide them.
        window (int | tuple[int, int]): Sides of a window in patches.
        shift (int | tuple[int, int]): Patches by which windows are shifted down and right. Defaults to 0.
        slots (int, optional): Most tokens of a window; ``w²``, or all tokens if fewer, by default. For tokens on a
            raster of ``h×w'`` a side holds ``⌈side · h / H⌉``.
        valid (Tensor, optional): Tokens that take part, ``(B, n)``, packed ``(ΣL,)``, bool; the others (padding) get
            zeros and are no keys.
        packing (Packing, optional): Where the images of a packed batch lie; it has no prefix tokens.

    Returns:
        Windows: For :func:`window_attention`.

    Raises:
        ValueError: If an image has more tokens than all windows have slots.
    """
    size = _pair(window)
    starts = [-s % w for s, w in zip(_pair(shift), size)]  # patches that the first window would have before the grid
    counts = [-(-(side + start) // w) for side, start, w in zip(grid, starts, size)]
    centres = coords
    if packing is not None:
        centres = packing.pad(coords)
        valid = packing.valid if valid is None else packing.pad(valid)
    n, count = centres.shape[1], counts[0] * counts[1]
    slots = max(min(size[0] * size[1], n), 1) if slots is None else slots
    if n > count * slots:
        raise ValueError(f'{count} windows of {slots} slots cannot hold {n} tokens; set slots >= {-(-n // count)}.')
    y, x = (
        ((c + (start + 0.5 + SLACK)) / w).floor().long().clamp(0, number - 1)
        for c, start, w, number in zip(centres.unbind(-1), starts, size, counts)
    )
    place = _places(y * counts[1] + x, count, slots, valid)
    if packing is not None:
        place = packing.unpad(place)
    return Windows(place, coords, count, slots, size, packing, valid is None and n == count * slots)


def _pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    return (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])


def _places(window: Tensor, count: int, slots: int, valid: Tensor | None) -> Tensor:
    """Slot of each token ``(B or 1, n)``, given its window; the first free one at or after the start of the window."""
    total = count * slots
    if valid is not None:
        window = torch.where(valid, window, count)
    order = window.argsort(dim=1, stable=True)
    start = window.gather(1, order) * slots
    rank = torch.arange(window.shape[1], device=window.device)
    # Each takes the slot after the one before it, or the first of its window: p_i = max(p_{i-1} + 1, start_i).
    place = rank + (start - rank).cummax(dim=1).values
    # Those that would run over the end move back: as many slots stay as tokens are to come.
    number = window.shape[1] if valid is None else valid.sum(1, keepdim=True)
    place = torch.minimum(place, total - number + rank).masked_fill(start == total, total)
    return torch.empty_like(place).scatter(1, order, place)


def partition(x: Tensor, grid: tuple[int, int], window: int | tuple[int, int], fill: Tensor | None = None) -> Tensor:
    """Cuts the full grid into windows, filled up at the bottom and on the right as in ViTDet (arXiv 2203.16527).

    What fills them takes part in attention there.

    Args:
        x (Tensor): One row for each patch in raster order, ``(B, H·W, C)``.
        grid (tuple[int, int]): ``(H, W)``.
        window (int | tuple[int, int]): Sides of a window in patches.
        fill (Tensor, optional): Row that fills up, ``(C,)``, or that of each image ``(B, 1, 1, C)``; zeros if None.

    Returns:
        Tensor: ``(B·count, slots, C)``, windows and slots in raster order.
    """
    sides = _pair(window)
    x = x.unflatten(1, grid)
    fill = x.new_zeros(x.shape[-1]) if fill is None else fill.to(x.dtype)
    for axis, side in zip((1, 2), sides):
        more = list(x.shape)
        more[axis] = -more[axis] % side
        if more[axis]:
            x = torch.cat([x, fill.expand(more)], dim=axis)
    down, across = x.shape[1] // sides[0], x.shape[2] // sides[1]
    x = x.unflatten(2, (across, sides[1])).unflatten(1, (down, sides[0])).transpose(2, 3)
    return x.flatten(3, 4).flatten(0, 2)


def unpartition(x: Tensor, grid: tuple[int, int], window: int | tuple[int, int]) -> Tensor:
    """Undoes :func:`partition`: ``(B·count, slots, C)`` → ``(B, H·W, C)``."""
    sides = _pair(window)
    down, across = (-(-n // side) for n, side in zip(grid, sides))
    x = x.unflatten(0, (x.shape[0] // (down * across), down, across)).unflatten(3, sides)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, : grid[0], : grid[1]].flatten(1, 2)


def window_attention(
    qkv: Tensor,
    num_heads: int,
    windows: Windows,
    *,
    num_prefix: int = 0,
    lengths: Packing | None = None,
    rotate: Rotation | None = None,
    scale: float | None = None,
    bias: Tensor | Callable[[Tensor], Tensor] | None = None,
    key_bias: Tensor | None = None,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Self-attention inside windows from the joint projection: :func:`self_attention` for windowed hosts.

    A prefix token lies in no window: it attends to all tokens of its image, and all attend to it, as the global tokens
    of Longformer (arXiv 2004.05150, section 3.1).

    Args:
        qkv (Tensor): ``(B, P+n, 3·C)``, or packed ``(ΣL, 3·C)``, each image's prefix first; q, k, v one after the
            other, each of them head by head.
        num_heads (int): Attention heads.
        windows (Windows): The slot of each patch token.
        num_prefix (int): P, class and register tokens of each image. Defaults to 0.
        lengths (Packing, optional): Where the images of a packed batch lie, prefix included; needed with a prefix only.
        rotate (Rotation, optional): Rotary positions, one row a patch token.
        scale (float, optional): Factor of ``q·k``; ``d ** -0.5`` if None.
        bias (Tensor | Callable, optional): Added to the scores inside windows, ``(B·count, heads, slots, slots)``;
            ``count`` windows or one serve all images; see :func:`read_bias`. Or a function that makes it of the queries
            ``(B·count, heads, slots, d)``, rotated. Not with a prefix.
        key_bias (Tensor, optional): Added to the scores of each key, ``(B or 1, P+n)``, packed ``(ΣL,)``, fp32.
        dropout_p (float): Dropout of the attention weights. Defaults to 0.

    Returns:
        tuple[Tensor, Tensor]: The attended values ``(…, C)`` before the output projection, zeros for tokens that take
        no part; and the keys ``(…, heads, d)`` before rotation.

    Raises:
        ValueError: If there is not one centre for each patch token, or a ``bias`` comes with prefix tokens.
    """
    extra = num_prefix * (1 if lengths is None else len(lengths))
    if qkv.shape[-2] != windows.place.shape[-1] + extra:
        raise ValueError(
            f'Windowed attention got {qkv.shape[-2]} tokens, {extra} of them of a prefix, and '
            f'{windows.place.shape[-1]} centres; give one centre for each token but those of the prefix.'
        )
    if num_prefix and bias is not None:
        raise ValueError('Windowed attention takes no position bias for prefix tokens; leave the class token out.')
    q, keys, v = qkv.unflatten(-1, (3, num_heads, -1)).unbind(-3)
    if rotate is not None:
        rotate = rotate.with_prefix(qkv.shape[-2], lengths)
        qkv = torch.stack((rotate(q), rotate(keys), v), -3).flatten(-3)
    options: dict = dict(scale=scale, dropout_p=dropout_p)
    first, patches = _apart(qkv, num_prefix, lengths)
    inside = windows.split(patches).unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = None
    if key_bias is not None or not windows.is_filled:
        weights = qkv.new_zeros(qkv.shape[:-1], dtype=torch.float32) if key_bias is None else key_bias
        weights = weights.expand(qkv.shape[:-1])
    ahead, inner = (None, None) if weights is None else _apart(weights, num_prefix, lengths)
    if inner is not None:
        inner = windows.split(inner, fill=EMPTY)
    if first is None:
        if callable(bias):
            bias = bias(inside[0])
        elif bias is not None and bias.shape[0] > 1:
            bias = bias.repeat(inside.shape[1] // bias.shape[0], 1, 1, 1)
        out = attention.dense_attention(*inside, bias=bias, key_bias=inner, **options)
        return windows.join(out.transpose(1, 2)).flatten(-2), keys

    q0, k0, v0 = first.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, P, d)
    q, k, v = inside
    k, v = (torch.cat([t.repeat_interleave(windows.count, 0), own], 2) for t, own in ((k0, k), (v0, v)))
    if ahead is not None and inner is not None:
        inner = torch.cat([ahead.repeat_interleave(windows.count, 0), inner], 1)
    out = attention.dense_attention(q, k, v, key_bias=inner, **options)
    out = windows.join(out.transpose(1, 2)).flatten(-2)
    _, k, v = qkv.unflatten(-1, (3, num_heads, -1)).unbind(-3)
    if lengths is None:
        k, v = k.transpose(1, 2), v.transpose(1, 2)
        outer = attention.dense_attention(q0, k, v, key_bias=weights, **options)
    else:
        outer = attention.ragged_attention(q0, k, v, lengths, key_bias=weights, **options)
    return _together(outer.transpose(1, 2).flatten(-2), out, lengths), keys


def token_attention(
    qkv: Tensor,
    num_heads: int,
    layout: Layout,
    *,
    rotate: Rotation | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Self-attention of the tokens of a layout: over the image, packed or not, or inside the windows of the layout.

    Args:
        qkv (Tensor): The joint projection of :func:`self_attention`.
        num_heads (int): Attention heads.
        layout (Layout): Where the tokens lie.
        rotate (Rotation, optional): Rotary positions, one row for each patch token.
        scale (float, optional): Factor of ``q·k``; ``d ** -0.5`` if None.
        dropout_p (float): Dropout of the attention weights. Defaults to 0.

    Returns:
        tuple[Tensor, Tensor]: See :func:`self_attention`.
    """
    options: dict = dict(rotate=rotate, scale=scale, key_bias=layout.key_bias, dropout_p=dropout_p)
    windows, packing = layout.windows, layout.packing
    if windows is None:
        return attention.self_attention(qkv, num_heads, lengths=packing, **options)
    return window_attention(qkv, num_heads, windows, num_prefix=layout.num_prefix, lengths=packing, **options)


def _apart(x: Tensor, num_prefix: int, lengths: Packing | None) -> tuple[Tensor | None, Tensor]:
    """Prefix ``(B, P, …)`` and patches ``(B, n, …)``, packed ``(Σn, …)``, of tokens ``(B, P+n, …)`` or ``(ΣL, …)``."""
    if not num_prefix:
        return None, x
    if lengths is None:
        return x[:, :num_prefix], x[:, num_prefix:]
    return x[_prefix_rows(num_prefix, lengths)], x[lengths.rows_from(num_prefix)]


def _together(prefix: Tensor, patches: Tensor, lengths: Packing | None) -> Tensor:
    """Undoes :func:`_apart`."""
    if lengths is None:
        return torch.cat([prefix, patches], 1)
    number = prefix.shape[1]
    x = patches.new_empty(lengths.total, patches.shape[-1])
    x = x.index_copy(0, lengths.rows_from(number), patches)
    return x.index_copy(0, _prefix_rows(number, lengths).flatten(), prefix.flatten(0, 1))


def _prefix_rows(number: int, lengths: Packing) -> Tensor:
    return lengths.ends[:-1, None] + torch.arange(number, device=lengths.ends.device)


def read_bias(table: Tensor, offsets: Tensor) -> Tensor:
    """Reads a relative position bias at offsets that may lie between patches, bilinearly.

    Args:
        table (Tensor): Bias of each offset ``(2h - 1, 2w - 1, heads)`` of windows of h×w; the middle is offset 0.
            Swin's ``relative_position_bias_table`` is that, its first two axes flattened.
        offsets (Tensor): :meth:`Windows.offsets`, ``(…, slots, slots, 2)``.

    Returns:
        Tensor: ``(…, heads, slots, slots)``.
    """
    rows, columns = table.shape[:2]
    y, x = (o + (side - 1) / 2 for o, side in zip(offsets.unbind(-1), (rows, columns)))
    top, left = (t.floor().clamp(0, side - 1) for t, side in ((y, rows), (x, columns)))
    down, right = (y - top)[..., None], (x - left)[..., None]

    def read(dy: int, dx: int) -> Tensor:
        return table[(top.long() + dy).clamp(max=rows - 1), (left.long() + dx).clamp(max=columns - 1)]

    upper = torch.lerp(read(0, 0), read(0, 1), right.to(table.dtype))
    lower = torch.lerp(read(1, 0), read(1, 1), right.to(table.dtype))
    return torch.lerp(upper, lower, down.to(table.dtype)).movedim(-1, -3)
