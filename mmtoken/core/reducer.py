"""Reducer: the one interface between a token reduction method and a host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from . import ops
from .schedule import Grid, check_grid, check_layer, resolve_grid
from .state import Restore, TokenState


@dataclass(frozen=True)
class HostInfo:
    """What a reducer may know of its host, told once when the model is built.

    Args:
        depth (int): Number of blocks.
        embed_dims (int): Width C of a token.
        num_heads (int): Attention heads.
        out_indices (tuple[int, ...]): Blocks after which the host gives out features.
        num_prefix (int): Class and register tokens.
        position (str): ``absolute`` when positions are in the tokens, ``relative`` when attention reads them.
    """

    depth: int
    embed_dims: int
    num_heads: int
    out_indices: tuple[int, ...]
    num_prefix: int = 0
    position: str = 'absolute'


class Reducer(nn.Module):
    """Base class of token reduction methods.

    A host calls, for each block i, ``before(state, i)``, then ``between(state, i)`` after the attention and before the
    MLP of the block, then ``after(state, i)``. Each may change ``state``; none keeps anything of it on the module.
    """

    #: Whether the number of tokens depends on the picture. Static methods promise compile, CUDA graphs and export.
    dynamic: ClassVar[bool] = False
    #: Whether the method has parameters or losses of its own.
    trainable: ClassVar[bool] = False
    #: Whether the method reads ``state.keys`` in ``between`` or ``after``.
    needs_keys: ClassVar[bool] = False
    #: The paper, as 'Title, venue year, arXiv id'.
    paper: ClassVar[str] = ''
    #: Arguments that reduce nothing, and arguments that reduce ever more, for a model of four blocks; the contract
    #: tests and the documentation run over them.
    identity_example: ClassVar[dict] = {}
    examples: ClassVar[Sequence[dict]] = ()

    #: The argument that takes the configs of the model's auxiliary heads where the config leaves it out.
    auxiliary: ClassVar[str | None] = None

    #: Whether features leave the host on the reduced raster and are restored after the head.
    late: bool = False
    #: Why the model has to let the method complete what its head makes of the features; empty if it need not.
    completes: str = ''

    def search_space(self, host: HostInfo) -> dict[str, tuple | list]:
        """Arguments that trade accuracy for speed on the host that this is bound to; none by default.

        Returns:
            dict: By argument: ``(low, high)``, two ints or two floats, is a range that holds both ends; a list is a
            choice of values, ``[None]`` one that clears an argument which excludes another; a tuple of these is an
            argument that is itself a list, item by item. Any combination, with the other arguments as they are, must
            pass the constructor and :meth:`bind`.
        """
        return {}

    def bind(self, host: HostInfo) -> None:
        """Checks the arguments against the host, before any work starts.

        Raises:
            ValueError: In one line that names the argument and what would be right.
        """

    def bind_model(self, model: nn.Module) -> None:
        """Checks the arguments against the model around the host, when that is built.

        Args:
            model (nn.Module): Normally an mmseg segmentor, with its ``decode_head``.

        Raises:
            ValueError: In one line that names the argument and what would be right.
        """

    def before(self, state: TokenState, i: int) -> None:
        """Runs before block ``i``."""

    def between(self, state: TokenState, i: int) -> None:
        """Runs after the attention of block ``i`` and before its MLP."""

    def after(self, state: TokenState, i: int) -> None:
        """Runs after block ``i``, before its features are given out."""

    def complete(self, state: TokenState, head: nn.Module, feats: tuple) -> Any:
        """Runs a head and completes its output to the full grid; for methods that set ``completes``.

        Args:
            state (TokenState): The state that the features came with.
            head (nn.Module): An mmseg decode head; its ``forward`` takes ``feats``.
            feats (tuple[Tensor]): Feature maps.

        Returns:
            Tensor: Logits on the full grid ``(B, classes, H, W)``, or a multiple of it, or whatever else the head's
            ``predict_by_feat`` and ``loss_by_feat`` take.

        Raises:
            ValueError: If the method cannot complete what this head gives.
        """
        logits = head.forward(feats)
        if not self.late:
            return logits
        if not isinstance(logits, Tensor) or logits.shape[-2:] != tuple(state.raster):
            raise ValueError(
                f"reducer.restore='late' needs a head with one logit map on the tokens it gets; "
                f"{type(head).__name__} gives another shape. Set restore='feature'."
            )
        full = state.dense(logits.flatten(2).transpose(1, 2))
        return full.transpose(1, 2).unflatten(2, state.grid)

    def losses(self, state: TokenState, targets: list | None = None) -> dict[str, Tensor]:
        """Losses of a trainable method, by name; empty for the others."""
        return {}


class GridReducer(Reducer):
    """Base of methods that put the tokens onto a coarser grid before one block.

    A method gives :meth:`pool`; when that happens, the checks, padding and positions are settled here.

    Args:
        layer (int): Block before which tokens are reduced, from 0.
        grid (float | tuple[int, int]): Part of each side to keep, in (0, 1], or ``(h, w)`` in tokens. 1 reduces
            nothing.
        restore_at (int, optional): Block before which the full grid is restored; None restores at each tap.
        proportional (bool): Weigh keys by token size in attention from there on. Defaults to False.
    """

    def __init__(self, layer: int, grid: Grid, restore_at: int | None = None, proportional: bool = False):
        super().__init__()
        self.layer, self.grid, self.restore_at = layer, check_grid('grid', grid), restore_at
        self.proportional = proportional

    def search_space(self, host: HostInfo) -> dict[str, tuple | list]:
        return dict(layer=(min(1, host.depth - 1), host.depth - 1), grid=(0.3, 1.0))

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
        """Replaces the tokens of ``state``, unless the grid is theirs already."""
        raster = state.raster
        grid = resolve_grid('reducer.grid', self.grid, raster)
        if grid == raster:
            return
        valid = exists = None
        if state.padding is not None:
            valid = ~state.padding
            exists = ops.pool_to_grid(valid[..., None].float(), raster, grid)[..., 0] > 0
        before = state.bookkeeping()
        tokens, restore, sizes = self.pool(state.patches, raster, grid, valid, exists)
        state.reduce(
            tokens,
            restore,
            raster=grid,
            owner=self,
            padding=None if exists is None else ~exists,
            coords=lambda _: ops.grid_coords(raster, grid, tokens.device),
            sizes=lambda: sizes(before.sizes),
            proportional=self.proportional or state.proportional,
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
            sizes ``(B or 1, h·w)``, above 0, from those of the old ones ``(B or 1, H·W)``, called when it is asked for.
        """
        raise NotImplementedError


class ReducerSequence(Reducer):
    """Several reducers in one backbone, called in order; their trails stack.

    Args:
        reducers (Sequence[Reducer]): At least one.
    """

    def __init__(self, reducers: Sequence[Reducer]):
        super().__init__()
        if not reducers:
            raise ValueError('reducer=[] is empty; leave it out, or name at least one method.')
        self.reducers = nn.ModuleList(reducers)
        self.dynamic = any(r.dynamic for r in reducers)
        self.trainable = any(r.trainable for r in reducers)
        self.needs_keys = any(r.needs_keys for r in reducers)
        self.late = any(r.late for r in reducers)
        self.completes = next((r.completes for r in reducers if r.completes), '')

    def bind(self, host: HostInfo) -> None:
        for reducer in self.reducers:
            reducer.bind(host)
        if any(reducer.late for reducer in list(self.reducers)[:-1]):
            raise ValueError(
                "reducer.restore='late' must be the last of several reducers: the head runs on its raster."
            )
        if sum(bool(reducer.completes) for reducer in self.reducers) > 1:
            raise ValueError('reducer=[…]: two of the methods complete the logits of the head; leave one of them out.')

    def bind_model(self, model: nn.Module) -> None:
        for reducer in self.reducers:
            reducer.bind_model(model)

    def before(self, state: TokenState, i: int) -> None:
        for reducer in self.reducers:
            reducer.before(state, i)

    def between(self, state: TokenState, i: int) -> None:
        for reducer in self.reducers:
            reducer.between(state, i)

    def after(self, state: TokenState, i: int) -> None:
        for reducer in self.reducers:
            reducer.after(state, i)

    def complete(self, state: TokenState, head: nn.Module, feats: tuple) -> Any:
        return next((r for r in self.reducers if r.completes), super()).complete(state, head, feats)

    def losses(self, state: TokenState, targets: list | None = None) -> dict[str, Tensor]:
        return {k: v for reducer in self.reducers for k, v in reducer.losses(state, targets).items()}
