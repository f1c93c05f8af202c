"""TokenState: the tokens of a batch during a pass, and the way back to the full grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import Layout, Lazy
from .ops import indices_of, places_of, rows_at
from .packing import Packing
from .restores import Gather, Restore, Scatter


@dataclass(frozen=True)
class Reduction:
    """One reduction: how to undo it, the layout before it, and the reducer that made it."""

    restore: Restore
    layout: Layout
    owner: Any = None


class TokenState:
    """Tokens of a batch of images.

    Every reduction goes through :meth:`replace`, which changes the tokens and their layout together and remembers how
    to undo both.

    Args:
        x (Tensor): One token for each patch in raster order, prefix first, ``(B, P+H·W, C)``.
        grid (tuple[int, int]): Full patch grid ``(H, W)``.
        num_prefix (int): P, class and register tokens; never reduced. Defaults to 0.
        padding (Tensor, optional): Patches that hold only padding, ``(B, H·W)``, bool.

    Attributes:
        x (Tensor): Present tokens ``(B, P+n, C)``; in a ragged batch packed ``(ΣL, C)``, each image's prefix first.
        layout (Layout): Where they lie, and how many patches each stands for.
        trail (list[Reduction]): Reductions so far, oldest first; they are undone from the end.
        keys (Tensor | None): Keys of the running block ``(B, P+n, heads, d)``, for reducers that set ``needs_keys``.
        aux (dict): By reducer, what it keeps for the rest of the pass.
        block (int): Next block to run; a reducer that runs blocks itself raises it.
        counts (list[int]): For each block so far, tokens of the whole batch, prefix included, that entered its MLP.
        folding (Folding | None): The windows that methods reduce inside, see :mod:`mmtoken.core.folding`.
        out_norm (Callable): Output norm of tokens ``(…, C)`` after block i, used by exit heads.
    """

    def __init__(self, x: Tensor, grid: tuple[int, int], num_prefix: int = 0, padding: Tensor | None = None):
        self.x = x
        if torch.jit.is_tracing():  # which gives sizes as tensors, and methods round and compare them
            grid = (int(grid[0]), int(grid[1]))
        self.layout = Layout.full(grid, num_prefix, x.device, padding)
        self.trail: list[Reduction] = []
        self.keys: Tensor | None = None
        self.aux: dict = {}
        self.block = 0
        self.counts: list[int] = []
        self.folding: Any = None
        self.out_norm: Callable[[Tensor, int], Tensor] = lambda x, i: x

    # ------------------------------------------------------------------ what the layout says
    @property
    def grid(self) -> tuple[int, int]:
        """Full patch grid ``(H, W)``."""
        return self.layout.grid

    @property
    def num_prefix(self) -> int:
        """Class and register tokens of each image."""
        return self.layout.num_prefix

    @property
    def raster(self) -> tuple[int, int] | None:
        """``(h, w)`` if the patch tokens lie on a raster, in its order."""
        return self.layout.raster

    @property
    def packing(self) -> Packing | None:
        """Rows of each image in a ragged batch; None for a dense batch."""
        return self.layout.packing

    @property
    def padding(self) -> Tensor | None:
        """Patch tokens that stand for padding only ``(B, n)``, packed ``(Σn,)``, bool."""
        return self.layout.padding

    @property
    def proportional(self) -> bool:
        """Whether attention weighs each key by the size of its token."""
        return self.layout.proportional

    @property
    def coords(self) -> Tensor:
        """See :attr:`Layout.coords`."""
        return self.layout.coords

    @property
    def sizes(self) -> Tensor:
        """See :attr:`Layout.sizes`."""
        return self.layout.sizes

    @property
    def lengths(self) -> Tensor | None:
        """Tokens of each image ``(B,)`` of a ragged batch, prefix included; None for a dense batch."""
        return None if self.packing is None else self.packing.lengths

    @property
    def patches(self) -> Tensor:
        """Present patch tokens ``(B, n, C)``; in a ragged batch packed ``(Σn, C)``."""
        if self.packing is None:
            return self.x[:, self.num_prefix :]
        return self.x[self.packing.rows_from(self.num_prefix)] if self.num_prefix else self.x

    @property
    def prefix(self) -> Tensor:
        """Prefix tokens ``(B, P, C)``."""
        if self.packing is None:
            return self.x[:, : self.num_prefix]
        first = torch.arange(self.num_prefix, device=self.x.device)
        return self.x[self.packing.ends[:-1, None] + first]

    @property
    def cls(self) -> Tensor:
        """The first prefix token of each image ``(B, C)``.

        Raises:
            ValueError: If there is no prefix token.
        """
        if not self.num_prefix:
            raise ValueError('This backbone has no class token to give out; set with_cls_token=True.')
        return self.prefix[:, 0]

    @property
    def full_layout(self) -> Layout:
        """Layout before the first reduction."""
        return self.trail[0].layout if self.trail else self.layout

    def next_stage(self, x: Tensor, grid: tuple[int, int], padding: Tensor | None = None) -> TokenState:
        """Returns the state of a pyramid's next stage; it takes over the counts and what reducers keep.

        Args:
            x (Tensor): One token for each patch of the stage, prefix first, ``(B, P+H·W, C)``.
            grid (tuple[int, int]): Full patch grid of the stage ``(H, W)``.
            padding (Tensor, optional): Patches that hold only padding, ``(B, H·W)``, bool.
        """
        state = TokenState(x, (grid[0], grid[1]), self.num_prefix, padding)
        state.aux, state.block, state.counts, state.out_norm = self.aux, self.block, self.counts, self.out_norm
        return state

    # ------------------------------------------------------------------ reductions
    def replace(self, x: Tensor, restore: Restore, layout: Layout, owner: Any = None) -> None:
        """Replaces the tokens and remembers the way back. Every reduction goes through here.

        Args:
            x (Tensor): New tokens, prefix first: ``(B, P+M, C)``, or packed ``(ΣL, C)`` if ``layout`` has a packing.
            restore (Restore): Maps them, or one value for each of them, back to the present tokens.
            layout (Layout): Layout of the new tokens; usually ``state.layout.reduced(…)``.
            owner (Any): The reducer that makes the reduction, for :meth:`restore`.
        """
        self.trail.append(Reduction(restore, self.layout, owner))
        self.keys = None  # they belong to the tokens before
        self.x, self.layout = x, layout

    def reduce(
        self,
        patches: Tensor,
        restore: Restore,
        *,
        coords: Callable[[Tensor], Tensor] | None = None,
        sizes: Lazy = None,
        padding: Tensor | None = None,
        raster: tuple[int, int] | None = None,
        window_raster: tuple[int, int] | None = None,
        proportional: bool = False,
        owner: Any = None,
    ) -> None:
        """Replaces the patch tokens of a dense batch by fewer tokens.

        Args:
            patches (Tensor): New patch tokens ``(B, M, C)``.
            restore (Restore): Maps ``(B, M, ·)`` back to ``(B, n, ·)``.
            coords (Callable, optional): Makes the centres of the new tokens ``(B or 1, M, 2)`` from those of the old
                ones ``(B or 1, n, 2)``; called only when a host asks for centres. By default those of ``raster``.
            sizes (Tensor | Callable, optional): Sizes of the new tokens ``(B or 1, M)``, or a function that makes them.
                By default those of ``raster``.
            padding (Tensor, optional): New tokens that stand for padding only ``(B, M)``, bool.
            raster (tuple[int, int], optional): ``(h, w)`` if the new tokens lie on a raster.
            window_raster (tuple[int, int], optional): That of a whole window, see :class:`Layout`.
            proportional (bool): Weigh keys by ``sizes`` in attention from here on. Once on, it stays on. Defaults to
                False.
            owner (Any): The reducer that makes the reduction, for :meth:`restore`.

        Raises:
            ValueError: If the batch is ragged.
        """
        self.check_dense(owner)
        before = self.layout
        layout = before.reduced(
            raster=raster,
            window_raster=window_raster,
            padding=padding,
            make_coords=None if coords is None else lambda: coords(before.coords),
            make_sizes=sizes,
            proportional=proportional or before.proportional,
        )
        self.replace(torch.cat([self.prefix, patches.to(self.x.dtype)], dim=1), restore, layout, owner)

    def keep(self, index: Tensor, owner: Any = None) -> None:
        """Keeps equally many patch tokens of each image; the restore gives the others their present values.

        There is no GPU→CPU sync, so a static method may call it. Only the dropped tokens are saved.

        Args:
            index (Tensor): Patch tokens to keep ``(B, k)``, int64, rising and all different in each image.
            owner (Any): The reducer that makes the reduction, for :meth:`restore`.

        Raises:
            ValueError: If the batch is ragged.
        """
        self.check_dense(owner)
        before, patches = self.layout, self.patches
        batch, n = patches.shape[:2]
        k = index.shape[1]
        kept = torch.zeros(batch, n, dtype=torch.bool, device=index.device).scatter(1, index, 1)
        # Row of each token in [dropped, kept].
        order = torch.where(kept, n - k + kept.cumsum(1) - 1, (~kept).cumsum(1) - 1)
        dropped = torch.empty_like(order).scatter(1, order, torch.arange(n, device=index.device).expand(batch, -1))
        dropped = dropped[:, : n - k]

        layout = before.reduced(
            padding=None if before.padding is None else rows_at(before.padding, index),
            make_coords=lambda: rows_at(before.coords, index),
            make_sizes=lambda: rows_at(before.sizes, index),
        )
        x = torch.cat([self.prefix, rows_at(patches, index)], dim=1)
        self.replace(x, Gather(order, [rows_at(patches, dropped)]), layout, owner)

    def select(self, keep: Tensor, owner: Any = None, sizes: Tensor | None = None) -> Tensor | None:
        """Keeps a subset of each image's patch tokens, in raster order, as a ragged batch.

        Syncs GPU→CPU once for the new counts. May be called again on what is left. A no-op if every token is kept.

        Args:
            keep (Tensor): Patch tokens to keep, ``(B, n)`` or packed ``(Σn,)`` in a ragged batch, bool. Prefix tokens
                are always kept.
            owner (Any): The reducer that makes the reduction, for :meth:`restore`.
            sizes (Tensor, optional): Sizes from here on, in the shape of ``keep``, fp32, if kept tokens stand for
                dropped ones too. Attention then weighs keys by them.

        Returns:
            Tensor | None: Kept tokens as indices among the patch tokens of the batch ``(Σn',)``, int64; None if every
            token is kept.
        """
        prefix, before = self.num_prefix, self.layout
        if before.packing is None:
            mask = F.pad(keep, (prefix, 0), value=True)
            packing = Packing(mask.sum(1))
            mask = mask.flatten()
        else:
            old, rows = before.packing, before.packing.rows_from(prefix)
            mask = torch.ones(old.total, dtype=torch.bool, device=keep.device).index_copy(0, rows, keep)
            packing = Packing(torch.zeros_like(old.lengths).index_add(0, old.image, mask.long()))
        if packing.total == len(mask):
            return None
        kept = indices_of(keep.flatten(), packing.total - prefix * len(packing))

        def pick(values: Tensor, tail: int) -> Tensor:
            """Picks the values of kept tokens ``(Σn', …)`` from ``(B or 1, n, …)`` or ``(Σn, …)``."""
            if before.packing is None:
                values = values.expand(len(packing), *values.shape[1:])
            return values.flatten(0, values.dim() - 1 - tail)[kept]

        layout = before.reduced(
            packing=packing,
            padding=None if before.padding is None else pick(before.padding, 0),
            make_coords=lambda: pick(before.coords, 1),
            make_sizes=lambda: pick(before.sizes if sizes is None else sizes, 0),
            proportional=before.proportional or sizes is not None,
        )
        gone = len(mask) - packing.total
        order = torch.where(mask, gone + mask.cumsum(0) - 1, (~mask).cumsum(0) - 1)
        rows = self.x.flatten(0, -2)
        saved = rows[indices_of(~mask, gone)]
        restore = Scatter(order, [saved], self.x.shape[:-1])
        self.replace(rows[indices_of(mask, packing.total)], restore, layout, owner)
        return kept

    def take(
        self,
        tokens: Tensor,
        taken: Tensor,
        place: Tensor,
        *,
        coords: Tensor,
        sizes: Tensor,
        padding: Tensor | None = None,
        number: int | None = None,
        prefix: Tensor | None = None,
        proportional: bool = False,
        owner: Any = None,
    ) -> None:
        """Replaces the patch tokens of a dense batch by some of other tokens, of which each may serve many patches.

        Args:
            tokens (Tensor): Tokens to take from ``(B, M, C)``.
            taken (Tensor): Which of them to take ``(B, M)``, bool; their order stays.
            place (Tensor): Which one serves each present patch token ``(B, n)``, int64 below M; all of these are taken.
            coords (Tensor): Centres of the tokens to take from ``(B or 1, M, 2)``.
            sizes (Tensor): Their sizes ``(B or 1, M)``.
            padding (Tensor, optional): Which of them stand for padding only ``(B, M)``, bool.
            number (int, optional): How many are taken of each image, if equally many: the batch stays dense, without a
                GPU→CPU sync. By default it becomes ragged.
            prefix (Tensor, optional): New prefix tokens ``(B, P, C)``.
            proportional (bool): See :meth:`reduce`. Defaults to False.
            owner (Any): The reducer that makes the reduction, for :meth:`restore`.

        Raises:
            ValueError: If the batch is ragged.
        """
        self.check_dense(owner)
        first, before = self.num_prefix, self.layout
        prefix = self.prefix if prefix is None else prefix
        tokens = tokens.to(prefix.dtype)
        order = (taken.cumsum(1) - 1).gather(1, place)  # of each patch token, the new one
        restore: Restore
        if number is not None:
            packing, rows = None, places_of(taken, number)
            x, restore = torch.cat([prefix, rows_at(tokens, rows)], dim=1), Gather(order)
        else:
            mask = F.pad(taken, (first, 0), value=True)
            packing = Packing(mask.sum(1))
            rows = indices_of(taken.flatten(), packing.total - first * len(packing))
            x = torch.cat([prefix, tokens], dim=1).flatten(0, 1)[indices_of(mask.flatten(), packing.total)]
            own = torch.arange(first, device=order.device).expand(len(order), -1)
            order = torch.cat([own, order + first], dim=1) + packing.ends[:-1, None]
            restore = Scatter(order.flatten(), (), self.x.shape[:-1])

        def pick(values: Tensor) -> Tensor:
            """Picks the values of the taken tokens."""
            if packing is None:
                return rows_at(values, rows)
            return values.expand(len(taken), *values.shape[1:]).flatten(0, 1)[rows]

        layout = before.reduced(
            packing=packing,
            padding=None if padding is None else pick(padding),
            make_coords=lambda: pick(coords),
            make_sizes=lambda: pick(sizes),
            proportional=proportional or before.proportional,
        )
        self.replace(x, restore, layout, owner)

    def check_dense(self, owner: Any = None) -> None:
        """Refuses a ragged batch.

        Raises:
            ValueError: In one line that names the method.
        """
        if self.packing is not None:
            name = 'This reducer' if owner is None else f'reducer {type(owner).__name__}'
            raise ValueError(
                f'{name} needs equally many tokens in each image, and a method before it left unequal ones; put it '
                'first, or leave one of the two out.'
            )

    # ------------------------------------------------------------------ the way back
    def restore_raster(self) -> tuple[int, int]:
        """Undoes reductions until the tokens of the batch lie on a raster again; returns its ``(h, w)``."""
        while self.raster is None:
            self._undo()
        return self.raster

    def restore(self, owner: Any = None) -> None:
        """Undoes the last reduction, layout included.

        Args:
            owner (Any): If given, undoes this reducer's last reduction and all that came after it; nothing if it made
                none.
        """
        if owner is None:
            self._undo()
        elif any(reduction.owner is owner for reduction in self.trail):
            while self._undo() is not owner:
                pass

    def rejoin(self, owner: Any) -> None:
        """Undoes all reductions of a reducer and those in between, layouts included; nothing if it made none.

        Tokens that it dropped join the others with the values that they had then. Restores that can be are made one.

        Args:
            owner (Any): The reducer.
        """
        first = next((i for i, reduction in enumerate(self.trail) if reduction.owner is owner), None)
        if first is None:
            return
        undone = self.trail[first:]
        for restore in _joined(undone):
            self.x = restore(self.x, self.num_prefix)
        self.layout, self.keys = undone[0].layout, None
        del self.trail[first:]

    def _undo(self) -> Any:
        last = self.trail.pop()
        self.x, self.layout, self.keys = last.restore(self.x, self.num_prefix), last.layout, None
        self.folding = None  # its windows are still reduced
        return last.owner

    def dense(self, values: Tensor | None = None, trail: list[Reduction] | None = None) -> Tensor:
        """Returns the full grid, and leaves the tokens and the trail as they are.

        Args:
            values (Tensor, optional): One row for each present patch token, ``(B, n, C')``, such as the logits of a
                head that ran on the reduced tokens. The tokens themselves if None.
            trail (list[Reduction], optional): Reductions to undo, if not all of them.

        Returns:
            Tensor: ``(B, H·W, C)`` in raster order, without prefix.

        Raises:
            ValueError: If the pass did not start from the full grid.
        """
        trail = self.trail if trail is None else trail
        if not self.full_layout.is_full:
            raise ValueError(
                'These tokens cannot be restored to the full grid; a stem that makes other tokens starts from the full '
                'grid and calls state.replace(x, restore, layout).'
            )
        x, prefix = (self.x, self.num_prefix) if values is None else (values, 0)
        restores = _joined(trail)
        for restore in restores[:-1]:
            x = restore(x, prefix)
        return restores[-1].full(x, prefix) if restores else x[:, prefix:]


def _joined(trail: list[Reduction]) -> list[Restore]:
    """Returns the maps that undo reductions, in the order to apply; those that can be are made one.

    Restores that join to one cost one pass over the features.
    """
    restores: list[Restore] = []
    for reduction in reversed(trail):
        both = restores[-1].after(reduction.restore) if restores else None
        if both is None:
            restores.append(reduction.restore)
        else:
            restores[-1] = both
    return restores
