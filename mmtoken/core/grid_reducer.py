"""GridReducer: the base of methods that put the tokens onto a coarser grid."""

from collections.abc import Callable

from torch import Tensor

from . import ops
from .arguments import Grid, check_flag, check_grid, check_layer, resolve_grid
from .reducer import HostInfo, Reducer
from .restores import Restore
from .state import TokenState


class GridReducer(Reducer):
    """Base of methods that put the tokens onto a coarser grid before one block.

    A method implements :meth:`pool`; this class does the checks, padding and positions. Where a method before it left
    the tokens on no raster, as merging and mixing do, what that did is undone first: it served the blocks before.

    Args:
        layer (int): Block before which tokens are reduced, from 0.
        grid (float | tuple[int, int]): Part of each side to keep, in (0, 1], or ``(h, w)`` in tokens. 1 reduces
            nothing.
        restore_at (int, optional): Block before which the full grid is restored; None restores at each tap.
        proportional (bool): Weigh keys by token size in attention after the reduction. Defaults to False.
    """

    def __init__(self, layer: int, grid: Grid, restore_at: int | None = None, proportional: bool = False):
        super().__init__()
        self.layer, self.grid = check_layer('layer', layer), check_grid('grid', grid)
        self.restore_at = None if restore_at is None else check_layer('restore_at', restore_at)
        self.proportional = check_flag('proportional', proportional)

    def search_space(self, host: HostInfo) -> dict[str, tuple | list]:
        return dict(layer=(min(1, host.depth - 1), host.depth - 1), grid=(0.3, 1.0))

    def bind(self, host: HostInfo) -> None:
        check_layer('reducer.layer', self.layer, host.depth)
        if self.restore_at is not None:
            check_layer('reducer.restore_at', self.restore_at, host.depth)
            if self.restore_at <= self.layer:
                raise ValueError(f'reducer.restore_at={self.restore_at} must come after layer={self.layer}.')
        side = host.reduction_window
        if not side:
            return
        stage = host.stage_of(self.layer)
        end = stage.first + stage.depth
        if self.restore_at is not None and self.restore_at > end:
            raise ValueError(
                f'reducer.restore_at={self.restore_at} is beyond the stage of layer={self.layer}, which ends before '
                f'block {end}, where the full grid is restored anyway; leave it out.'
            )
        if isinstance(self.grid, tuple) and max(self.grid) > side:
            raise ValueError(
                f'reducer.grid={self.grid} is larger than a window of {side}x{side} tokens, inside which this '
                'backbone reduces; give fewer tokens, or the part of each side to keep.'
            )
        if isinstance(self.grid, float) and round(self.grid * side) < 1:
            raise ValueError(
                f'reducer.grid={self.grid} leaves no token of a window of {side}x{side}; give more than '
                f'{0.5 / side:.3g}, which leaves one.'
            )

    def before(self, state: TokenState, i: int) -> None:
        if i == self.layer:
            self.reduce(state)
        elif i == self.restore_at:
            state.restore(self)

    def reduce(self, state: TokenState) -> None:
        """Replaces the tokens of ``state``; a no-op if they lie on the grid already."""
        raster = state.restore_raster()
        before = state.layout
        whole = before.window_raster or raster
        target = resolve_grid('reducer.grid', self.grid, whole)
        if target == whole:
            return
        # A window that is cut off at the border keeps as many tokens a patch.
        down, across = (-(-side * few // full) for side, few, full in zip(raster, target, whole))
        grid = (down, across)
        valid = exists = None
        if before.padding is not None:
            valid = ~before.padding
            exists = ops.cells_with(valid, raster, grid)
        tokens, restore, sizes = self.pool(state.patches, raster, grid, valid, exists)
        state.reduce(
            tokens,
            restore,
            raster=grid,
            window_raster=None if before.window_raster is None else target,
            owner=self,
            padding=None if exists is None else ~exists,
            sizes=lambda: sizes(before.sizes),
            proportional=self.proportional,
        )

    def pool(
        self,
        x: Tensor,
        raster: tuple[int, int],
        grid: tuple[int, int],
        valid: Tensor | None,
        exists: Tensor | None,
    ) -> tuple[Tensor, Restore, Callable[[Tensor], Tensor]]:
        """Makes the coarser grid.

        Args:
            x (Tensor): Patch tokens ``(B, H·W, C)``.
            raster (tuple[int, int]): ``(H, W)``.
            grid (tuple[int, int]): ``(h, w)``, smaller on some side, larger on none.
            valid (Tensor, optional): Patches that are not padding ``(B, H·W)``, bool.
            exists (Tensor, optional): Cells of the grid with a valid patch ``(B, h·w)``, bool.

        Returns:
            tuple[Tensor, Restore, Callable]: Tokens ``(B, h·w, C)``; the way back; and a function that makes their
            sizes ``(B or 1, h·w)``, above 0, from those of the old tokens ``(B or 1, H·W)``.
        """
        raise NotImplementedError

    def tokens_on_paper(self, host: HostInfo, grid: tuple[int, int]) -> tuple[list[int], tuple[int, int]]:
        """Returns the patch tokens in each block and the coarser grid, for :meth:`closed_form`."""
        small = resolve_grid('reducer.grid', self.grid, grid)
        last = host.depth if self.restore_at is None else self.restore_at
        full, few = grid[0] * grid[1], small[0] * small[1]
        return [few if self.layer <= i < last else full for i in range(host.depth)], small
