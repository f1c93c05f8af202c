"""Folding: the windows of pictures as pictures of their own, so that methods reduce inside windows.

Where blocks attend in windows, as in Swin (arXiv 2103.14030) and ViTDet (arXiv 2203.16527), a method may merge or
cluster inside each of them: every whole window then has equally many tokens, and the blocks go on with smaller windows.
Prefix tokens lie in no window, and no method sees them.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .layout import Layout
from .restores import Restore
from .state import Reduction, TokenState
from .windows import partition, unpartition

#: Rows or columns of windows, from the first to the last: how many windows, and tokens along a side of each.
Bands = list[tuple[int, int]]


class WindowState(TokenState):
    """Windows of one shape as the images of a batch; tokens and keys are cut out when a method asks for them.

    Args:
        grid (tuple[int, int]): Patches of a window.
        layout (Layout): Its layout.
        like (Tensor): A tensor on the device of the tokens.
    """

    def __init__(self, grid: tuple[int, int], layout: Layout, like: Tensor):
        super().__init__(like, grid)
        self.layout = layout
        self.load(None, None)

    def load(self, cut_x: Callable[[], Tensor] | None, cut_keys: Callable[[], Tensor] | None) -> None:
        """Forgets the tokens and keys, and notes how to cut out the present ones."""
        self._x: Tensor | None = None
        self._keys: Tensor | None = None
        self._cut_x, self._cut_keys = cut_x, cut_keys
        self.is_changed = False

    @property
    def x(self) -> Tensor:
        """Tokens ``(B·count, n, C)`` of all windows of this shape."""
        if self._x is None:
            assert self._cut_x is not None
            self._x = self._cut_x()
        return self._x

    @x.setter
    def x(self, value: Tensor) -> None:
        self._x, self.is_changed = value, True

    @property
    def keys(self) -> Tensor | None:
        """Keys of the running block ``(B·count, n, heads, d)``."""
        if self._keys is None and self._cut_keys is not None:
            self._keys = self._cut_keys()
        return self._keys

    @keys.setter
    def keys(self, value: Tensor | None) -> None:
        self._keys, self._cut_keys = value, None


class Folding(Restore):
    """The windows of full grids, as one batch for each shape of window, and the way back to the grids.

    A window at the border may be cut off, so there are up to four shapes. Nothing is filled up: what a method makes of
    a window holds patches of the picture only.

    Args:
        state (TokenState): Full grids.
        window (int): Side of a window in patches.
    """

    def __init__(self, state: TokenState, window: int):
        self.whole, self.window = state.layout, window
        #: Windows down and across, and their sides in patches.
        self.rows, self.columns = (_bands(side, window) for side in state.grid)
        paddings: list[Tensor | None] = [None] * (len(self.rows) * len(self.columns))
        if state.padding is not None:
            paddings = [part[..., 0] for part in cut(state.padding[..., None], self.rows, self.columns)]
        shapes = [(height, width) for _, height in self.rows for _, width in self.columns]
        #: Windows of each shape, tokens of each of them, and those down and across if they lie on rasters.
        self.counts = [down * across for down, _ in self.rows for across, _ in self.columns]
        self.numbers = [height * width for height, width in shapes]
        self.bands: tuple[Bands, Bands] | None = (self.rows, self.columns)
        self.parts = [
            WindowState(grid, replace(Layout.full(grid, 0, state.x.device, pad), window_raster=(window,) * 2), state.x)
            for grid, pad in zip(shapes, paddings)
        ]

    def split(self, values: Tensor) -> list[Tensor]:
        """Cuts values of the present tokens ``(B, n, C)`` into those of each shape of window ``(B·count, m, C)``."""
        if self.bands is not None:
            return cut(values, *self.bands)
        shapes = list(zip(self.counts, self.numbers))
        parts = values.split([count * number for count, number in shapes], dim=1)
        return [part.unflatten(1, shape).flatten(0, 1) for part, shape in zip(parts, shapes)]

    def joined(self, values: list[Tensor], bands: tuple[Bands, Bands] | None) -> Tensor:
        """Undoes :meth:`split`; the values may be the same for all images, or for all windows ``(1, m, C)``."""
        values = [part if len(part) > 1 else part.expand(count, -1, -1) for part, count in zip(values, self.counts)]
        images = max(len(part) // count for part, count in zip(values, self.counts))
        values = [
            part if len(part) == images * count else part.repeat(images, 1, 1)
            for part, count in zip(values, self.counts)
        ]
        if bands is not None:
            return join(values, *bands)
        return torch.cat([part.unflatten(0, (-1, count)).flatten(1, 2) for part, count in zip(values, self.counts)], 1)

    def patches(self, x: Tensor) -> Tensor:
        return join([part.dense(values) for part, values in zip(self.parts, self.split(x))], self.rows, self.columns)

    def act(self, act: Callable[[TokenState, int], None], state: TokenState, i: int) -> None:
        """Lets a method act on the windows, and takes over what it did.

        Args:
            act (Callable): ``before``, ``between`` or ``after`` of the method.
            state (TokenState): The pictures; changed in place.
            i (int): Block.
        """
        made: dict[str, list[Tensor]] = {}

        def cutter(name: str, values: Tensor | None, place: int) -> Callable[[], Tensor] | None:
            if values is None:
                return None

            def get() -> Tensor:
                if name not in made:
                    made[name] = self.split(values[:, state.num_prefix :].flatten(2))
                return made[name][place].unflatten(2, values.shape[2:])

            return get

        for place, part in enumerate(self.parts):
            part.block = state.block
            part.load(cutter('x', state.x, place), cutter('keys', state.keys, place))
            act(part, i)
        if any(part.is_changed for part in self.parts):
            self.update(state)
        for part in self.parts:  # which would keep the tokens of this block
            part.load(None, None)

    def update(self, state: TokenState) -> None:
        """Takes over the tokens of the windows and where they lie."""
        layouts, tokens = [part.layout for part in self.parts], [part.x for part in self.parts]
        self.numbers = [x.shape[1] for x in tokens]
        self.bands = bands = self._present_bands()
        state.x = torch.cat([state.prefix, self.joined(tokens, bands)], 1)
        state.layout, state.keys, state.trail = self.whole, None, []
        if not any(part.trail for part in self.parts):
            return
        padding = [layout.padding[..., None] for layout in layouts if layout.padding is not None]
        height, width = (sum(count * side for count, side in band) for band in bands or ([], []))
        state.layout = self.whole.reduced(
            raster=(height, width) if bands else None,
            window_raster=layouts[0].window_raster if bands else None,
            window_slots=max(self.numbers),
            padding=self.joined(padding, bands)[..., 0] if padding else None,
            make_coords=lambda: self.joined(self._centres(layouts), bands),
            make_sizes=lambda: self.joined([layout.sizes[..., None] for layout in layouts], bands)[..., 0],
            proportional=any(layout.proportional for layout in layouts),
        )
        state.trail = [Reduction(self, self.whole)]

    def _present_bands(self) -> tuple[Bands, Bands] | None:
        """Windows and tokens of each down and across; None if some window is on no raster."""
        rasters = [part.raster for part in self.parts if part.raster is not None]
        if len(rasters) < len(self.parts):
            return None
        rows = [(count, height) for (count, _), (height, _) in zip(self.rows, rasters[:: len(self.columns)])]
        return rows, [(count, width) for (count, _), (_, width) in zip(self.columns, rasters)]

    def _centres(self, layouts: list[Layout]) -> list[Tensor]:
        """Centres of the tokens of each shape of window ``(count or B·count, m, 2)`` on the full grid."""
        ys, xs = (_starts(bands, self.whole.device) for bands in (self.rows, self.columns))
        corners = [torch.stack(torch.meshgrid(y, x, indexing='ij'), -1).flatten(0, 1) for y in ys for x in xs]
        return [
            layout.coords + corner.repeat(max(len(layout.coords) // len(corner), 1), 1)[:, None]
            for layout, corner in zip(layouts, corners)
        ]


def let(act: Callable[[TokenState, int], None] | None, state: TokenState, i: int, window: int | None) -> None:
    """Lets a method act before, inside or after a block, see :meth:`Folding.act`.

    Args:
        act (Callable, optional): ``before``, ``between`` or ``after`` of the method; None for no method.
        state (TokenState): Changed in place.
        i (int): Block.
        window (int, optional): Side of the windows inside which it acts; None for whole images.
    """
    if act is None:
        return
    if window is None:
        return act(state, i)
    if state.folding is None:
        state.folding = Folding(state, window)
    state.folding.act(act, state, i)


def _bands(side: int, window: int) -> Bands:
    return [band for band in ((side // window, window), (1, side % window)) if all(band)]


def _starts(bands: Bands, device: torch.device | str) -> list[Tensor]:
    """First patch of each row or column of windows, a tensor for each band."""
    starts, first = [], 0
    for count, side in bands:
        starts.append(first + side * torch.arange(count, device=device))
        first += count * side
    return starts


def cut(x: Tensor, rows: Bands, columns: Bands) -> list[Tensor]:
    """Cuts a raster of tokens ``(B, H·W, C)`` into its windows ``(B·count, h·w, C)``, for each shape of window.

    Args:
        x (Tensor): Tokens in raster order.
        rows (Bands): Windows down.
        columns (Bands): Windows across.
    """
    heights, widths = ([count * side for count, side in bands] for bands in (rows, columns))
    x = x.unflatten(1, (sum(heights), sum(widths)))
    parts = []
    for band, height, (_, h) in zip(x.split(heights, 1), heights, rows):
        for part, width, (_, w) in zip(band.split(widths, 2), widths, columns):
            parts.append(partition(part.flatten(1, 2), (height, width), (h, w)))
    return parts


def join(parts: list[Tensor], rows: Bands, columns: Bands) -> Tensor:
    """Undoes :func:`cut`."""
    lines, rest = [], iter(parts)
    for down, h in rows:
        line = []
        for across, w in columns:
            grid = (down * h, across * w)
            line.append(unpartition(next(rest), grid, (h, w)).unflatten(1, grid))
        lines.append(torch.cat(line, 2) if len(line) > 1 else line[0])
    return (torch.cat(lines, 1) if len(lines) > 1 else lines[0]).flatten(1, 2)
