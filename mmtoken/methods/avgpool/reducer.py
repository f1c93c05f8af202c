"""Average pooling of tokens: the plain baseline that every method has to beat."""

from typing import Optional

import torch

from mmtoken.core import HostInfo, Interpolate, Reducer, TokenState, ops
from mmtoken.core.schedule import Grid, check_grid, check_layer, resolve_grid
from mmtoken.registry import REDUCERS


@REDUCERS.register_module()
class AvgPool(Reducer):
    """Averages tokens onto a coarser grid before one block and interpolates them back.

    Args:
        layer (int): Block before which tokens are pooled, from 0.
        grid (float | tuple[int, int]): Part of each side to keep, in (0, 1], or ``(h, w)`` in tokens. 1 reduces
            nothing. Defaults to 0.5, a 2×2 pooling.
        mode (str): Interpolation back, ``bilinear`` or ``nearest``. Defaults to ``bilinear``.
        restore_at (int, optional): Block before which the full grid is restored; None restores at each tap.
    """

    paper = 'No paper; the baseline of SegFormer++ (2x2), 2405.14467'
    identity_example = dict(layer=1, grid=1.0)
    examples = (dict(layer=2, grid=0.75), dict(layer=2, grid=0.5), dict(layer=1, grid=0.5, mode='nearest'))

    def __init__(self, layer: int, grid: Grid = 0.5, mode: str = 'bilinear', restore_at: Optional[int] = None):
        super().__init__()
        if mode not in ('bilinear', 'nearest'):
            raise ValueError(f"mode='{mode}' must be 'bilinear' or 'nearest'.")
        self.layer, self.grid, self.mode, self.restore_at = layer, check_grid('grid', grid), mode, restore_at

    def bind(self, host: HostInfo) -> None:
        check_layer('reducer.layer', self.layer, host.depth)
        if self.restore_at is not None:
            check_layer('reducer.restore_at', self.restore_at, host.depth)
            if self.restore_at <= self.layer:
                raise ValueError(f'reducer.restore_at={self.restore_at} must come after layer={self.layer}.')

    def before(self, state: TokenState, i: int) -> None:
        if i == self.layer:
            self.reduce(state)
        elif i == self.restore_at:
            state.restore(self)

    def reduce(self, state: TokenState) -> None:
        raster = state.raster
        grid = resolve_grid('reducer.grid', self.grid, raster)
        if grid == raster:
            return
        valid = padding = None
        if state.padding is not None:
            valid = ~state.padding
            padding = ops.pool_to_grid(valid[..., None].float(), raster, grid)[..., 0] == 0
        pooled = ops.pool_to_grid(state.patches, raster, grid, valid)
        device, ratio = pooled.device, state.patches.shape[1] / pooled.shape[1]
        state.reduce(
            pooled,
            Interpolate(grid, raster, self.mode),
            raster=grid,
            owner=self,
            padding=padding,
            coords=lambda _: ops.grid_coords(raster, grid, device),
            sizes=lambda: torch.full((1, pooled.shape[1]), ratio, device=device))
