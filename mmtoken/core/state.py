"""TokenState: the tokens of a batch on their way through a backbone, and how to get the full grid back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import Layout, Lazy
from .ops import indices_of
from .packing import Packing
from .restores import Gather, Restore, Scatter


@dataclass(frozen=True)
class Reduction:
    """One entry of the trail: how to undo a reduction, the layout before it, and whose it is."""

    restore: Restore
    layout: Layout
    owner: Any = None


class TokenState:
    """Tokens of a batch of images.

    Every reduction goes through :meth:`replace`: it changes the tokens and their layout together and remembers how to
    undo both.

    Args:
        x (Tensor): One token for each patch in raster order, prefix first, ``(B, P+H·W, C)``.
        grid (tuple[int, int]): Full patch grid ``(H, W)``.
        num_prefix (int): P, class and register tokens; never reduced. Defaults to 0.
        padding (Tensor, optional): Patches that hold nothing but padding, ``(B, H·W)``, bool.

    Attributes:
        x (Tensor): Tokens now, ``(B, P+n, C)``; in a ragged batch packed ``(ΣL, C)``, each image's prefix first.
        layout (Layout): Where they lie and what they stand for.
        trail (list[Reduction]): Reductions to undo, the last one first.
        keys (Tensor | None): Keys of the running block ``(B, P+n, heads, d)``, for reducers that set ``needs_keys``.
        aux (dict): What reducers keep for the rest of the pass, by reducer.
        block (int): The next block to run; a reducer that runs blocks itself moves it on.
        counts (list[int]): Tokens of the whole batch, prefix included, that entered the MLP of each block so far.
        out_norm (Callable): Output norm of tokens ``(…, C)`` after block i, used by exit heads.
    """

    def __init__(self, x: Tensor, grid: tuple[int, int], num_prefix: int = 0, padding: Tensor | None = None):
        self.x = x
        self.layout = Layout.full(grid, num_prefix, x.device, padding)
        self.trail: list[Reduction] = []
        self.keys: Tensor | None = None
        self.aux: dict = {}
        self.block = 0
        self.counts: list[int] = []
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
        """Patch tokens that stand for nothing but padding ``(B, n)``, packed ``(Σn,)``, bool."""
        return self.layout.padding

    @property
    def proportional(self) -> bool:
        """Whether attention weighs each key by the patches that its token stands for."""
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
        """Patch tokens now ``(B, n, C)``; in a ragged batch packed ``(Σn, C)``."""
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
        """Returns the tokens of a pyramid's next stage, which go on with this pass: what reducers keep, the counts.

        Args:
            x (Tensor): One token for each patch of that stage, prefix first, ``(B, P+H·W, C)``.
            grid (tuple[int, int]): Its full patch grid ``(H, W)``.
            padding (Tensor, optional): Its patches that hold nothing but padding, ``(B, H·W)``, bool.
        """
        state = TokenState(x, (grid[0], grid[1]), self.num_prefix, padding)
        state.aux, state.block, state.counts, state.out_norm = self.aux, self.block, self.counts, self.out_norm
        return state

    # ------------------------------------------------------------------ reductions
    def replace(self, x: Tensor, restore: Restore, layout: Layout, owner: Any = None) -> None:
        """Replaces the tokens and remembers the way back; every reduction goes through here.

        Args:
            x (Tensor): New tokens, prefix first: ``(B, P+M, C)``, or packed ``(ΣL, C)`` if ``layout`` has a packing.
            restore (Restore): Maps them, or values of theirs, back to the tokens of now.
            layout (Layout): Of the new tokens; usually ``state.layout.reduced(…)``.
            owner (Any): Whose reduction it is, for :meth:`restore`.
        """
        self.trail.append(Reduction(restore, self.layout, owner))
        self.keys = None  # they were those of the tokens before
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
        proportional: bool = False,
        owner: Any = None,
    ) -> None:
        """Replaces the patch tokens of a dense batch by fewer ones.

        Args:
            patches (Tensor): New patch tokens ``(B, M, C)``.
            restore (Restore): Maps ``(B, M, ·)`` back to ``(B, n, ·)``.
            coords (Callable, optional): Makes the centres of the new tokens ``(B or 1, M, 2)`` from those of the old
                ones ``(B or 1, n, 2)``; called only when a host asks. By default they are those of ``raster``.
            sizes (Tensor | Callable, optional): Patches that each stands for ``(B or 1, M)``, or a function that makes
                them. By default they are those of ``raster``.
            padding (Tensor, optional): New tokens that stand for nothing but padding ``(B, M)``, bool.
            raster (tuple[int, int], optional): ``(h, w)`` if the new tokens lie on a raster.
            proportional (bool): Weigh keys by ``sizes`` in attention from here on, if a reducer before did not already.
                Defaults to False.
            owner (Any): Whose reduction it is, for :meth:`restore`.

        Raises:
            ValueError: If the batch is ragged.
        """
        self.check_dense(owner)
        before = self.layout
        layout = before.reduced(
            raster=raster,
            padding=padding,
            make_coords=None if coords is None else lambda: coords(before.coords),
            make_sizes=sizes,
            proportional=proportional or before.proportional,
        )
        self.replace(torch.cat([self.prefix, patches.to(self.x.dtype)], dim=1), restore, layout, owner)

    def keep(self, index: Tensor, owner: Any = None) -> None:
        """Lets equally many patch tokens of each image go on; the others come back as they are now.

        Nothing waits for the GPU, so a static method may call it. Only the dropped tokens are saved.

        Args:
            index (Tensor): Patch tokens that go on ``(B, k)``, int64, rising and all different in each image.
            owner (Any): Whose reduction it is, for :meth:`restore`.

        Raises:
            ValueError: If the batch is ragged.
        """
        self.check_dense(owner)
        before, patches = self.layout, self.patches
        batch, n = patches.shape[:2]
        k = index.shape[1]
        kept = torch.zeros(batch, n, dtype=torch.bool, device=index.device).scatter(1, index, True)
        # Rows of [dropped, kept]: each token's number among its kind.
        order = torch.where(kept, n - k + kept.cumsum(1) - 1, (~kept).cumsum(1) - 1)
        dropped = torch.empty_like(order).scatter(1, order, torch.arange(n, device=index.device).expand(batch, -1))
        dropped = dropped[:, : n - k]

        def pick(values: Tensor, rows: Tensor) -> Tensor:
            values = values.expand(batch, *values.shape[1:])
            rows = rows.view(*rows.shape, *[1] * (values.dim() - 2)).expand(-1, -1, *values.shape[2:])
            return values.gather(1, rows)

        layout = before.reduced(
            padding=None if before.padding is None else pick(before.padding, index),
            make_coords=lambda: pick(before.coords, index),
            make_sizes=lambda: pick(before.sizes, index),
        )
        x = torch.cat([self.prefix, pick(patches, index)], dim=1)
        self.replace(x, Gather(order, [pick(patches, dropped)]), layout, owner)

    def select(self, keep: Tensor, owner: Any = None, sizes: Tensor | None = None) -> Tensor | None:
        """Lets a subset of each image's patch tokens go on, in raster order, as a ragged batch.

        Waits once for the GPU, to know the new counts. May be called again on what is left. Changes nothing if every
        token goes on.

        Args:
            keep (Tensor): ``(B, n)``, or packed ``(Σn,)`` in a ragged batch, bool. Prefix tokens always go on.
            owner (Any): Whose reduction it is, for :meth:`restore`.
            sizes (Tensor, optional): Patches that each token stands for from here on, in the shape of ``keep``, fp32,
                if those that go on stand for some that do not; attention then weighs keys by it.

        Returns:
            Tensor | None: Those that go on, as indices among the patch tokens of the batch ``(Σn',)``, int64; None if
            all do.
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
            """Of one value a patch token ``(B or 1, n, …)`` or ``(Σn, …)`` those that go on ``(Σn', …)``."""
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
    def restore(self, owner: Any = None) -> None:
        """Undoes the last reduction, layout included.

        Args:
            owner (Any): If given, undoes everything down to its last reduction, that included; nothing if it made
                none, so that reducers that stack never undo one another's alone.
        """
        if owner is None:
            self._undo()
        elif any(reduction.owner is owner for reduction in self.trail):
            while self._undo() is not owner:
                pass

    def _undo(self) -> Any:
        last = self.trail.pop()
        self.x, self.layout, self.keys = last.restore(self.x, self.num_prefix), last.layout, None
        return last.owner

    def dense(self, values: Tensor | None = None, trail: list[Reduction] | None = None) -> Tensor:
        """Returns the full grid: runs the trail back without popping it.

        Args:
            values (Tensor, optional): What to restore, one row for each patch token now, ``(B, n, C')``; the tokens
                themselves if None. Class maps of a head that ran on the reduced tokens are restored this way.
            trail (list[Reduction], optional): The trail at the time that ``values`` belong to, if it is not now.

        Returns:
            Tensor: ``(B, H·W, C)`` in raster order, without prefix.

        Raises:
            ValueError: If the first tokens were none of the full grid and nothing says how to restore it.
        """
        trail = self.trail if trail is None else trail
        if not self.full_layout.is_full:
            raise ValueError(
                'These tokens cannot be restored to the full grid; a stem that makes other tokens starts from the full '
                'grid and calls state.replace(x, restore, layout).'
            )
        x, prefix = (self.x, self.num_prefix) if values is None else (values, 0)
        pending: Restore | None = None  # maps that fold into one cost one pass over the features
        for reduction in reversed(trail):
            both = None if pending is None else pending.after(reduction.restore)
            if pending is not None and both is None:
                x = pending(x, prefix)
            pending = reduction.restore if both is None else both
        return x[:, prefix:] if pending is None else pending.full(x, prefix)
