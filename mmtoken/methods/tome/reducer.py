"""ToMe: token merging by bipartite soft matching."""

from collections.abc import Sequence

import torch

from mmtoken.core import REDUCERS, Cost, Gather, HostInfo, Reducer, TokenState, ops
from mmtoken.core.arguments import check_blocks, check_flag

from .matching import bipartite_match, merge_plan, merge_sums, merges_per_block


@REDUCERS.register_module()
class ToMe(Reducer):
    """Merges the most similar tokens in every block, between attention and MLP.

    Independent implementation of arXiv 2210.09461. Similarity is the cosine of the head-averaged keys. Tokens at
    even places of the raster order merge into tokens at odd places; a merged token is the mean of both, weighted by
    their sizes. Attention weighs keys by size. The class token takes no part. Every tap restores the full grid by one
    map that joins those of all blocks.

    Args:
        r (int | Sequence[int], optional): Tokens merged in every block, or in each.
        keep (float, optional): Part of the tokens left at the end, in (0, 1], instead of ``r``; 1 merges nothing.
        layers (Sequence[int], optional): Blocks that merge, over which ``r`` or ``keep`` is spread; all by default.
        proportional (bool): Weigh keys by token size in attention. Defaults to True.
        count_prefix (bool): Count the class token and registers when tokens are told even from odd, as the authors'
            code does. Defaults to False.
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
        count_prefix: bool = False,
    ):
        super().__init__()
        if layers is not None:
            layers = check_blocks('layers', layers)
        depth = len(r) if isinstance(r, Sequence) and not isinstance(r, str) else 1
        merges_per_block(r, keep, depth)  # refuses bad numbers before the model is built
        self.r, self.keep, self.layers = r, keep, layers
        self.proportional = check_flag('proportional', proportional)
        self.count_prefix = check_flag('count_prefix', count_prefix)

    def search_space(self, host):
        # If only the first blocks merge, later ones need no matching.
        first = range(max(1, host.depth // 2), host.depth + 1)
        return dict(keep=(0.1, 1.0), r=[None], layers=[list(range(n)) for n in first])

    def bind(self, host: HostInfo) -> None:
        layers = range(host.depth) if self.layers is None else self.layers
        check_blocks('reducer.layers', list(layers), host.depth)
        self.steps = dict(zip(layers, merges_per_block(self.r, self.keep, len(layers))))

    def merged(self, n: int, i: int) -> int:
        """Returns how many of n tokens block ``i`` merges."""
        step = self.steps.get(i, 0)
        return min(step if isinstance(step, int) else round(n * step), n // 2)

    def between(self, state: TokenState, i: int) -> None:
        if self.steps.get(i, 0) == 0:
            return
        state.check_dense(self)
        n = ops.length(state.x) - state.num_prefix
        r = self.merged(n, i)
        if r == 0:
            return
        if state.keys is None:
            raise ValueError(f'reducer.layers: another reducer merged in block {i} already; give each its own layers.')
        prefix = state.num_prefix
        with ops.full_precision(state.x):
            metric = state.keys[:, prefix:].mean(2, dtype=torch.float32)
            valid = None if state.padding is None else ~state.padding
            first = prefix % 2 if self.count_prefix else 0
            source, target, _ = bipartite_match(metric, r, valid, first)
            stay, index = merge_plan(source, target, n)
            sizes = state.sizes.expand(state.x.shape[0], -1)[..., None]
            sums = merge_sums(torch.cat([state.patches.float() * sizes, sizes], dim=-1), stay, source, target)
            new_sizes = sums[..., -1:].detach().clone()  # which keeps no memory of the sums
            merged = sums[..., :-1] / new_sizes
        state.reduce(
            merged,
            Gather(index),
            owner=self,
            coords=lambda centres: merge_sums(centres * sizes, stay, source, target) / new_sizes,
            sizes=new_sizes[..., 0],
            proportional=self.proportional,
            padding=None if valid is None else ~valid.gather(1, stay),
        )

    def closed_form(self, host: HostInfo, grid: tuple[int, int], state: TokenState | None = None) -> Cost:
        n, reduce = grid[0] * grid[1], 0
        attention, mlp = [], []
        for i in range(host.depth):
            attention.append(n)
            r = self.merged(n, i)
            if r:
                reduce += -(-n // 2) * (n // 2) * (host.embed_dims // host.num_heads)  # even with odd tokens
                reduce += (n - r) * r * (host.embed_dims + 1)  # a matrix adds what merges, and its sizes
                if host.position == 'relative' and i < host.depth - 1:  # a block comes that asks for centres
                    reduce += (n - r) * r * 2
            n -= r
            mlp.append(n)
        return Cost(attention, mlp, reduce)
