"""TokenState: the tokens of a batch on their way through a backbone, and how to get the full grid back."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops import indices_of
from .packing import Packing


class Restore:
    """Undoes one reduction: a linear map from the reduced patch tokens back to those before it."""

    def __call__(self, x: Tensor, num_prefix: int) -> Tensor:
        """Maps all tokens ``(B, P+M, C)`` to ``(B, P+N, C)``; the first ``num_prefix`` stay as they are."""
        if num_prefix == 0:
            return self.patches(x)
        return torch.cat([x[:, :num_prefix], self.patches(x[:, num_prefix:])], dim=1)

    def patches(self, x: Tensor) -> Tensor:
        """Maps patch tokens ``(B, M, C)`` to ``(B, N, C)``."""
        raise NotImplementedError


class Gather(Restore):
    """Each old token gets the value of one new token.

    Args:
        index (Tensor): New token of each old one, ``(B, N)`` or ``(1, N)``, int64, values below M.
    """

    def __init__(self, index: Tensor):
        self.index = index

    def patches(self, x: Tensor) -> Tensor:
        index = self.index.expand(x.shape[0], -1)
        return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))

    def after(self, earlier: 'Gather') -> 'Gather':
        """The map of ``earlier`` followed by this one, as a single gather of integers."""
        if self.index.shape[0] == 1:  # the same map for every image
            return Gather(self.index[0][earlier.index])
        return Gather(self.index.gather(1, earlier.index.expand(self.index.shape[0], -1)))


class WeightedSum(Restore):
    """Each old token is a weighted sum of new tokens.

    Args:
        weights (Tensor): ``(B, N, M)``, rows sum to 1 so that constant features come back unchanged.
    """

    def __init__(self, weights: Tensor):
        self.weights = weights

    def patches(self, x: Tensor) -> Tensor:
        return self.weights.to(x.dtype) @ x


class Interpolate(Restore):
    """New tokens lie on a smaller raster and are interpolated to the old one.

    Args:
        source (tuple[int, int]): Raster ``(h, w)`` of the new tokens.
        target (tuple[int, int]): Raster ``(H, W)`` of the old ones.
        mode (str): ``bilinear`` or ``nearest``.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int], mode: str):
        self.source, self.target, self.mode = source, target, mode

    def patches(self, x: Tensor) -> Tensor:
        align = False if self.mode == 'bilinear' else None
        x = x.transpose(1, 2).unflatten(2, self.source)
        return F.interpolate(x, self.target, mode=self.mode, align_corners=align).flatten(2).transpose(1, 2)


class Scatter(Restore):
    """New tokens go back to where they were taken from; the tokens that were dropped come back as they were saved.

    Args:
        saved (Tensor): All tokens before the reduction ``(B, P+N, C)``, or packed ``(ΣL, C)``.
        mask (Tensor): Which of them went on, ``(B, P+N)`` or ``(ΣL,)``, bool, prefix included.
        rows (Tensor, optional): The same as indices among all rows ``(M,)``, int64, where they are known already.
    """

    def __init__(self, saved: Tensor, mask: Tensor, rows: Tensor | None = None):
        self.saved, self.mask = saved, mask
        self.rows = mask.flatten().nonzero()[:, 0] if rows is None else rows

    def __call__(self, x: Tensor, num_prefix: int) -> Tensor:
        # The rows of a (B, L, C) batch in raster order are the packed rows, so both layouts go one way.
        old = self.saved.to(x.dtype).flatten(0, -2)
        return old.index_copy(0, self.rows, x.reshape(-1, x.shape[-1])).view(self.saved.shape)


@dataclass
class Reduction:
    """One entry of the trail: how to undo a reduction, and what the state's bookkeeping was before it."""

    restore: Restore
    raster: tuple[int, int] | None
    coords: Any
    sizes: Any
    padding: Tensor | None
    packing: Packing | None
    proportional: bool
    owner: Any = None


#: A tensor, or a function that makes it when it is asked for (most hosts never ask for coordinates).
Lazy = Tensor | Callable[[], Tensor] | None


@dataclass
class TokenState:
    """Tokens of a batch of images.

    Args:
        x (Tensor): Tokens now, ``(B, P+n, C)``; in a ragged batch packed ``(ΣL, C)``, each image's prefix first.
        grid (tuple[int, int]): Full patch grid ``(H, W)``.
        num_prefix (int): P, class and register tokens; never reduced.
        padding (Tensor, optional): Patch tokens now that stand for nothing but padding, ``(B, n)``, bool.
    """

    x: Tensor
    grid: tuple[int, int]
    num_prefix: int = 0
    padding: Tensor | None = None
    #: ``(h, w)`` when the patch tokens now lie on a raster, in its order; None otherwise.
    raster: tuple[int, int] | None = None
    #: Where the images of a ragged batch lie in ``x``, prefix tokens included; None for a dense batch.
    packing: Packing | None = None
    #: Keys of the running block ``(B, P+n, heads, d)``, for reducers that set ``needs_keys``.
    keys: Tensor | None = None
    #: Whether attention is to weigh each key by the patches it stands for.
    proportional: bool = False
    trail: list[Reduction] = field(default_factory=list)
    aux: dict = field(default_factory=dict)
    #: Tokens of the whole batch, prefix included, that entered the MLP of each block so far.
    counts: list[int] = field(default_factory=list)
    #: How the host normalises tokens ``(…, C)`` that it gives out after block i, for heads that look at them earlier.
    out_norm: Callable[[Tensor, int], Tensor] = lambda x, i: x
    _coords: Lazy = None
    _sizes: Lazy = None

    def __post_init__(self):
        if self.raster is None and not self.trail and self.packing is None:
            self.raster = self.grid

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
    def cls(self) -> Tensor:
        """The first prefix token of each image ``(B, C)``."""
        return self.x[:, 0] if self.packing is None else self.x[self.packing.ends[:-1]]

    @property
    def coords(self) -> Tensor:
        """Centre ``(y, x)`` of what each patch token stands for, in patch units, ``(B or 1, n, 2)``, fp32; packed
        ``(Σn, 2)``.
        """
        if self._coords is None:
            h, w = self.grid
            y = torch.arange(h, device=self.x.device, dtype=torch.float32)
            x = torch.arange(w, device=self.x.device, dtype=torch.float32)
            self._coords = torch.stack(torch.meshgrid(y, x, indexing='ij'), -1).reshape(1, h * w, 2)
        elif callable(self._coords):
            self._coords = self._coords()
        return self._coords

    @property
    def sizes(self) -> Tensor:
        """How many patches each patch token stands for ``(B or 1, n)``, fp32; packed ``(Σn,)``."""
        if self._sizes is None:
            self._sizes = torch.ones(1, self.grid[0] * self.grid[1], device=self.x.device)
        elif callable(self._sizes):
            self._sizes = self._sizes()
        return self._sizes

    @property
    def key_bias(self) -> Tensor | None:
        """``log`` of the sizes for proportional attention ``(B, P+n)``, packed ``(ΣL,)``, or None; prefix tokens count
        as one.
        """
        if not self.proportional:
            return None
        bias = self.sizes.log()
        if self.packing is not None:
            zeros = bias.new_zeros(self.packing.total)
            return zeros.index_copy(0, self.packing.rows_from(self.num_prefix), bias)
        return F.pad(bias.expand(self.x.shape[0], -1), (self.num_prefix, 0))

    def reduce(
        self,
        patches: Tensor,
        restore: Restore,
        *,
        coords: Callable[[Tensor], Tensor],
        sizes: Lazy,
        padding: Tensor | None = None,
        raster: tuple[int, int] | None = None,
        proportional: bool = False,
        owner: Any = None,
    ) -> None:
        """Replaces the patch tokens by fewer ones and remembers how to undo it.

        Args:
            patches (Tensor): New patch tokens ``(B, M, C)``.
            restore (Restore): Maps ``(B, M, ·)`` back to ``(B, n, ·)``.
            coords (Callable): Makes the centres of the new tokens ``(B or 1, M, 2)`` from those of the old ones
                ``(B or 1, n, 2)``; called only when a host asks.
            sizes (Tensor | Callable): Patches that each stands for ``(B or 1, M)``, or a function that makes them.
            padding (Tensor, optional): New tokens that stand for nothing but padding ``(B, M)``, bool.
            raster (tuple[int, int], optional): ``(h, w)`` if the new tokens lie on a raster.
            proportional (bool): Weigh keys by ``sizes`` in attention from here on. Defaults to False.
            owner (Any): Whose reduction it is, for :meth:`restore`.
        """
        before = self.bookkeeping()
        self._push(restore, owner, raster, lambda: coords(before.coords), sizes, padding, None, proportional)
        self.keys = None  # they were those of the tokens before
        self.x = torch.cat([self.x[:, : self.num_prefix], patches.to(self.x.dtype)], dim=1)

    def select(self, keep: Tensor, owner: Any = None, sizes: Tensor | None = None) -> Tensor | None:
        """Lets a subset of each image's patch tokens go on, in raster order, as a ragged batch.

        Costs one synchronisation with the host, which has to know the new sizes. May be called again on what is left.
        Where all tokens go on nothing changes.

        Args:
            keep (Tensor): ``(B, n)``, or packed ``(Σn,)`` in a ragged batch, bool. Prefix tokens always go on.
            owner (Any): Whose reduction it is, for :meth:`restore`.
            sizes (Tensor, optional): Patches that each token stands for from here on, in the shape of ``keep``, fp32,
                if those that go on stand for some that do not; attention then weighs keys by it.

        Returns:
            Tensor | None: Those that go on, as indices among the patch tokens of the batch ``(Σn',)``, int64; None if
            all do.
        """
        prefix, before = self.num_prefix, self.bookkeeping()
        if self.packing is None:
            mask = F.pad(keep, (prefix, 0), value=True)
            packing = Packing(mask.sum(1))
        else:
            old, rows = self.packing, self.packing.rows_from(prefix)
            mask = torch.ones(old.total, dtype=torch.bool, device=keep.device).index_copy(0, rows, keep)
            packing = Packing(torch.zeros_like(old.lengths).index_add(0, old.image, mask.long()))
        if packing.total == mask.numel():
            return None
        kept = indices_of(keep.flatten(), packing.total - prefix * len(packing))

        def pick(values: Tensor, tail: int) -> Tensor:
            """Of one value a patch token ``(B or 1, n, …)`` or ``(Σn, …)`` those that go on ``(Σn', …)``."""
            if before.packing is None:
                values = values.expand(len(packing), *values.shape[1:])
            return values.flatten(0, values.dim() - 1 - tail)[kept]

        rows = indices_of(mask.flatten(), packing.total)
        self._push(
            Scatter(self.x, mask, rows),
            owner,
            None,
            lambda: pick(before.coords, 1),
            lambda: pick(before.sizes if sizes is None else sizes, 0),
            None,
            packing,
            self.proportional or sizes is not None,
        )
        self.keys = None
        self.x = self.x.flatten(0, -2)[rows]
        return kept

    def bookkeeping(self) -> 'TokenState':
        """A copy to make later centres and sizes from, if they are asked for. It shares the tensors, but not the trail,
        which will hold what holds this copy: memory would wait for the garbage collector.
        """
        return replace(self, trail=[], keys=None)

    def _push(self, restore, owner, *bookkeeping):
        self.trail.append(
            Reduction(
                restore, self.raster, self._coords, self._sizes, self.padding, self.packing, self.proportional, owner
            )
        )
        self.raster, self._coords, self._sizes, self.padding, self.packing, self.proportional = bookkeeping

    def restore(self, owner: Any = None) -> None:
        """Undoes the last reduction, bookkeeping included.

        Args:
            owner (Any): If given, everything is undone down to its last reduction, that included; nothing if it made
                none, so that reducers that stack never undo one another's alone.
        """
        if owner is None:
            self._pop()
        elif any(reduction.owner is owner for reduction in self.trail):
            while self._pop() is not owner:
                pass

    def _pop(self) -> Any:
        last = self.trail.pop()
        self.x = last.restore(self.x, self.num_prefix)
        self.raster, self._coords, self._sizes = last.raster, last.coords, last.sizes
        self.padding, self.packing, self.proportional = last.padding, last.packing, last.proportional
        self.keys = None
        return last.owner

    def dense(self, values: Tensor | None = None, trail: list[Reduction] | None = None) -> Tensor:
        """Runs the trail back to the full grid without popping it.

        Args:
            values (Tensor, optional): What to restore, one row for each patch token now, ``(B, n, C')``; the tokens
                themselves if None. Class maps of a head that ran on the reduced tokens are restored this way.
            trail (list[Reduction], optional): The trail at the time that ``values`` belong to, if it is not now.

        Returns:
            Tensor: ``(B, H·W, C)`` in raster order, without prefix.
        """
        x, prefix = (self.x, self.num_prefix) if values is None else (values, 0)
        pending = None  # gathers are folded into one, so a merge in every block costs one pass over the features
        for reduction in reversed(self.trail if trail is None else trail):
            if isinstance(reduction.restore, Gather):
                pending = reduction.restore if pending is None else pending.after(reduction.restore)
                continue
            if pending is not None:
                x, pending = pending(x, prefix), None
            x = reduction.restore(x, prefix)
        if pending is not None:
            return pending.patches(x[:, prefix:])
        return x[:, prefix:]
