"""ToMe: token merging by bipartite soft matching."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmtoken.core import Gather, HostInfo, Reducer, TokenState, ops
from mmtoken.core.schedule import merges_per_block
from mmtoken.registry import REDUCERS


def merge_plan(source: Tensor, target: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Which tokens stay after a merge, and where each old token is then found.

    Args:
        source (Tensor): Positions of merged tokens ``(B, r)``, int64, all different.
        target (Tensor): Positions that they are merged into ``(B, r)``, int64, none of them a source.
        n (int): Tokens before the merge.

    Returns:
        tuple[Tensor, Tensor]: Positions of the tokens that stay, in raster order, ``(B, n−r)``; and the new position
        of each old token's value ``(B, n)``.
    """
    batch, r = source.shape
    gone = torch.zeros(batch, n, dtype=torch.bool, device=source.device).scatter(1, source, True)
    place = (~gone).cumsum(1) - 1
    index = place.scatter(1, source, place.gather(1, target))
    # Inverts `place` over those that stay; the gone all write into one column that is cut off.
    positions = torch.arange(n, device=source.device).expand(batch, -1)
    stay = positions.new_empty(batch, n - r + 1).scatter(1, place.masked_fill(gone, n - r), positions)[:, : n - r]
    return stay, index


@REDUCERS.register_module()
class ToMe(Reducer):
    """Merges the most similar tokens in every block, between attention and MLP.

    Independent implementation of arXiv 2210.09461. Similarity is the cosine of the keys, averaged over heads; merged
    tokens are means weighted by the patches they stand for; attention weighs keys by their size; the class token
    takes no part. Every tap gets back the full grid through one map composed over all blocks. Which tokens are
    compared alternates in raster order.

    Args:
        r (int | Sequence[int], optional): Tokens merged in every block, or in each.
        keep (float, optional): Part of the tokens left at the end, in (0, 1], instead of ``r``; 1 merges nothing.
        layers (Sequence[int], optional): Blocks that merge; all by default. With it, ``r`` or ``keep`` is spread over
            these alone.
        proportional (bool): Weigh keys by token size in attention. Defaults to True.
    """

    needs_keys = True
    paper = 'Token Merging: Your ViT But Faster, ICLR 2023, 2210.09461'
    identity_example = dict(r=0)
    examples = (dict(r=4), dict(r=8), dict(keep=0.3))

    def __init__(
        self,
        r: int | Sequence[int] | None = None,
        keep: float | None = None,
        layers: Sequence[int] | None = None,
        proportional: bool = True,
    ):
        super().__init__()
        if layers is not None and (
            not isinstance(layers, Sequence) or isinstance(layers, str) or not layers or len(set(layers)) < len(layers)
        ):
            raise ValueError(f'layers={layers!r} must be a list of different blocks, such as [3, 6, 9].')
        depth = len(r) if isinstance(r, Sequence) and not isinstance(r, str) else 1
        merges_per_block(r, keep, depth)  # refuses bad numbers before the model is built
        self.r, self.keep, self.layers, self.proportional = r, keep, layers, proportional

    def search_space(self, host):
        # The first blocks alone may merge: the later ones then pay for no more bookkeeping.
        first = range(max(1, host.depth // 2), host.depth + 1)
        return dict(keep=(0.1, 1.0), r=[None], layers=[list(range(n)) for n in first])

    def bind(self, host: HostInfo) -> None:
        layers = range(host.depth) if self.layers is None else self.layers
        unknown = [i for i in layers if i not in range(host.depth)]
        if unknown:
            raise ValueError(f'reducer.layers={list(layers)} goes beyond the blocks 0 to {host.depth - 1}.')
        self.steps = dict(zip(layers, merges_per_block(self.r, self.keep, len(layers))))

    def between(self, state: TokenState, i: int) -> None:
        step = self.steps.get(i, 0)
        if step == 0:
            return
        if state.lengths is not None:
            raise ValueError(
                'reducer ToMe merges the same number of tokens in each image, and a method before it left '
                'unequal ones; put ToMe first.'
            )
        n = state.x.shape[1] - state.num_prefix
        r = min(step if isinstance(step, int) else round(n * step), n // 2)
        if r == 0:
            return
        if state.keys is None:
            raise ValueError(f'reducer.layers: another reducer merged in block {i} already; give each its own layers.')
        prefix = state.num_prefix
        with ops.full_precision(state.x):
            metric = state.keys[:, prefix:].mean(2)
            valid = None if state.padding is None else ~state.padding
            source, target, _ = ops.bipartite_match(metric, r, valid)
            stay, index = merge_plan(source, target, n)
            sizes = state.sizes.expand(state.x.shape[0], -1)[..., None]
            # Sums by a product with a 0/1 matrix, not by atomics: the same bits at every run, and exportable.
            into = (target[:, None] == stay[..., None]).to(sizes.dtype)

            def total(values: Tensor) -> Tensor:
                return pick(values, stay) + into @ pick(values, source)

            new_sizes = total(sizes)

            def mean(values: Tensor) -> Tensor:
                return total(values * sizes) / new_sizes

            merged = mean(state.patches.float())
        state.reduce(
            merged,
            Gather(index),
            owner=self,
            coords=lambda centres: mean(centres.expand(index.shape[0], -1, -1)),
            sizes=new_sizes[..., 0],
            proportional=self.proportional or state.proportional,
            padding=None if valid is None else ~valid.gather(1, stay),
        )


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Rows of ``(B, n, C)`` at ``(B, m)`` → ``(B, m, C)``."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
