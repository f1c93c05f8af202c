"""Average pooling of tokens: the baseline for other methods."""

from torch import Tensor

from mmtoken.core import REDUCERS, Cost, GridReducer, Interpolate, ops
from mmtoken.core.arguments import Grid, check_choice


@REDUCERS.register_module()
class AvgPool(GridReducer):
    """Averages tokens onto a coarser grid before one block and interpolates them back.

    Args:
        layer (int): Block before which tokens are pooled, from 0.
        grid (float | tuple[int, int]): Part of each side to keep, in (0, 1], or ``(h, w)`` in tokens. 1 reduces
            nothing. Defaults to 0.5, a 2×2 pooling.
        mode (str): Interpolation back, ``bilinear`` or ``nearest``. Defaults to ``bilinear``.
        restore_at (int, optional): Block before which the full grid is restored; None restores at each tap.
        proportional (bool): Weigh keys by token size in attention, as ToMe does. Defaults to False.
    """

    paper = 'No paper; the baseline of SegFormer++ (2x2), 2405.14467'
    identity_example = dict(layer=1, grid=1.0)
    examples = (
        dict(layer=2, grid=0.75),
        dict(layer=2, grid=0.5),
        dict(layer=1, grid=0.5, mode='nearest', proportional=True),
    )

    def __init__(
        self,
        layer: int,
        grid: Grid = 0.5,
        mode: str = 'bilinear',
        restore_at: int | None = None,
        proportional: bool = False,
    ):
        super().__init__(layer, grid, restore_at, proportional)
        self.mode = check_choice('mode', mode, ('bilinear', 'nearest'))

    def search_space(self, host):
        return dict(super().search_space(host), proportional=[False, True])

    def pool(self, x, raster, grid, valid, exists):
        tokens = ops.pool_to_grid(x, raster, grid, valid)

        def sizes(old: Tensor) -> Tensor:
            return ops.pool_to_grid(old[..., None], raster, grid)[..., 0] * (x.shape[1] / tokens.shape[1])

        return tokens, Interpolate(grid, raster, self.mode), sizes

    def closed_form(self, host, grid, state=None):
        tokens, _ = self.tokens_on_paper(host, grid)
        return Cost(tokens, tokens)  # averages and interpolation are not counted
