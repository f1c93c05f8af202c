"""Expedit: token clustering and reconstruction without training."""

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mmtoken.core import REDUCERS, Cost, GridReducer, HostInfo, TokenState, WeightedSum, ops
from mmtoken.core.arguments import Grid, check_choice, check_int, check_number

from .tiles import Tiles, tile_shape

#: ``temperature='auto'`` is this number over the mean squared distance of a token to its nearest centre.
AUTO_SHARPNESS = 3.0


def cluster(
    x: Tensor,
    raster: tuple[int, int],
    grid: tuple[int, int],
    window: int = 5,
    iterations: int = 5,
    temperature: float | str = 'auto',
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Clusters tokens (arXiv 2210.01035, section 3.2): soft k-means among spatially near centres.

    ``S⁰`` is the adaptive average pooling of the tokens. With 𝒩(p) the λ×λ centres around token p's home cell, κ times
    ``A_ip = softmax_{i∈𝒩(p)}(−T‖x_p−s_i‖²)``, without gradient, and ``s_i = Σ_p A_ip x_p / Σ_p A_ip``.
    Tokens near each other share most candidates, so each step is two batched products over :class:`Tiles`.

    Args:
        x (Tensor): Tokens ``(B, H·W, C)``, fp32.
        raster (tuple[int, int]): ``(H, W)``.
        grid (tuple[int, int]): ``(h, w)``, not larger on either side.
        window (int): λ, odd.
        iterations (int): κ.
        temperature (float | str): T, or ``auto``.
        valid (Tensor, optional): Tokens that take part ``(B, H·W)``, bool.

    Returns:
        tuple[Tensor, Tensor]: Centres ``(B, h·w, C)`` and the temperature used ``(B, 1, 1)``.
    """
    tiles = Tiles(raster, grid, window, x.device)
    centres = tiles.centres(ops.pool_to_grid(x, raster, grid, valid))
    exists = weight = None
    if valid is not None:
        exists = tiles.centres(ops.cells_with(valid, raster, grid)[..., None])
        weight = valid[..., None].to(x.dtype)
    # Tokens in tiles take the room of several copies; what is made in parts is made anew each time.
    width = tiles.shape[0] * tiles.shape[2]
    kept = tiles.tokens(x) if len(ops.in_parts(width, x, dim=-1)) == 1 else None

    def parts(centres: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Some channels of the tokens and of the centres in tiles at a time."""
        for some, near in ops.in_parts(width, x, centres, dim=-1):
            yield tiles.tokens(some) if kept is None else kept, near

    def scores(centres: Tensor) -> Tensor:
        """``‖x‖²−‖x−s‖²`` of each token and its candidates ``(B, H·W, λ²)``; ‖x‖² cancels in the softmax."""
        norms = centres.square().sum(-1, keepdim=True)
        if exists is not None:
            norms = norms.masked_fill(~exists, -ops.MASKED)
        products = functools.reduce(torch.add, (2 * near @ some.transpose(-1, -2) for some, near in parts(centres)))
        return tiles.by_token(products - norms, ops.MASKED)

    scale = x.new_full((x.shape[0], 1, 1), 1.0 if temperature == 'auto' else float(temperature))
    for step in range(iterations):
        with torch.no_grad():
            logits = scores(centres)
            if temperature == 'auto' and step == 0:
                nearest = (x.square().sum(-1, keepdim=True) - logits.amax(-1, keepdim=True)).clamp(min=0)
                nearest = nearest.mean(1) if weight is None else (nearest * weight).sum(1) / weight.sum(1).clamp(min=1)
                scale = (AUTO_SHARPNESS / nearest.clamp(min=1e-12))[:, None]
            assign = (scale * logits).softmax(-1)
            assign = tiles.by_tile(assign if weight is None else assign * weight)
        mass = assign.sum(-1, keepdim=True)
        total = mass.clamp(min=1e-12)
        # A centre that no token chose keeps its place.
        moved = [torch.where(mass > 1e-12, assign @ some / total, near) for some, near in parts(centres)]
        centres = torch.cat(moved, dim=-1)
    return tiles.grid(centres), scale


def reconstruction(
    x: Tensor, centres: Tensor, neighbors: int, temperature: Tensor, exists: Tensor | None = None
) -> WeightedSum:
    """Returns the token reconstruction (arXiv 2210.01035, section 3.3).

    ``w_pi = softmax(−T‖x_p−s_i‖²)`` over the k nearest centres of p among all, zero elsewhere; rows sum to one.

    Args:
        x (Tensor): Tokens before clustering ``(B, N, C)``, fp32.
        centres (Tensor): Centres after it ``(B, M, C)``.
        neighbors (int): k; all centres if it is not in 1…M−1.
        temperature (Tensor): T of each image ``(B, 1, 1)``.
        exists (Tensor, optional): Centres that stand for at least one valid token ``(B, M)``, bool.
    """
    norms, number = centres.square().sum(-1).unsqueeze(1), centres.shape[1]
    found = []
    for (some,) in ops.in_parts(number, x):
        scores = 2 * some @ centres.transpose(1, 2) - norms
        if exists is not None:
            scores = scores.masked_fill(~exists[:, None], ops.MASKED)
        found.append(scores.topk(neighbors, dim=-1) if 0 < neighbors < number else (scores,))
    best, *index = (torch.cat(parts, dim=1) for parts in zip(*found))
    return WeightedSum((temperature * best).softmax(-1), *index)


@REDUCERS.register_module()
class Expedit(GridReducer):
    """Clusters tokens onto a coarser grid before one block and reconstructs the full grid later.

    Independent implementation of arXiv 2210.01035. It differs from the released code: weights of the reconstruction
    sum to one, the k nearest centres are chosen before the exponential, grids need not be square, padding is left out,
    distances are fp32, and nothing is kept on the module.

    Args:
        layer (int): α, the block before which tokens are clustered, from 0.
        grid (float | tuple[int, int]): Part of each side to keep, in (0, 1], or ``(h, w)`` in tokens. 1 reduces
            nothing.
        window (int): λ, side of the window of candidate centres, odd. Defaults to 5.
        iterations (int): κ. Defaults to 5.
        temperature (float | str): T; ``auto`` sets it for each image from its distances. Defaults to ``auto``.
        neighbors (int): k, centres that a token is reconstructed from. Defaults to 20.
        restore_at (int, optional): α+β, the block before which the full grid is restored; None restores at each tap.
        restore (str): ``feature`` restores the maps; ``late`` gives the head reduced maps, and
            ``mmtoken.TokenEncoderDecoder`` restores its logits. Defaults to ``feature``.
        proportional (bool): Weigh keys by the sizes of the centres, as ToMe does (arXiv 2210.09461, eq. 1); not in the
            paper. Defaults to False.
    """

    paper = (
        'Expediting Large-Scale Vision Transformer for Dense Prediction without Fine-tuning, NeurIPS 2022, 2210.01035'
    )
    identity_example = dict(layer=1, grid=1.0)
    examples = (
        dict(layer=2, grid=0.75),
        dict(layer=2, grid=0.5),
        dict(layer=1, grid=0.5, proportional=True, iterations=2),
    )

    def __init__(
        self,
        layer: int,
        grid: Grid,
        window: int = 5,
        iterations: int = 5,
        temperature: float | str = 'auto',
        neighbors: int = 20,
        restore_at: int | None = None,
        restore: str = 'feature',
        proportional: bool = False,
    ):
        super().__init__(layer, grid, restore_at, proportional)
        if check_int('window', window, 1) % 2 == 0:
            raise ValueError(f'window={window} must be odd and positive, such as 5.')
        if temperature != 'auto':
            if isinstance(temperature, str):
                raise ValueError(f"temperature={temperature!r} must be 'auto' or a positive number.")
            check_number('temperature', temperature, 0, above=True)
        self.window, self.iterations = window, check_int('iterations', iterations, 1, 1000)
        self.temperature, self.neighbors = temperature, check_int('neighbors', neighbors, 1)
        self.gives_reduced_maps = check_choice('restore', restore, ('feature', 'late')) == 'late'
        self.finishes = "restore='late' leaves the maps on reduced tokens" if self.gives_reduced_maps else ''

    def search_space(self, host):
        return dict(super().search_space(host), proportional=[False, True])

    def bind(self, host: HostInfo) -> None:
        super().bind(host)
        if self.gives_reduced_maps and (self.restore_at is not None or min(host.out_indices) < self.layer):
            raise ValueError(
                "reducer.restore='late' needs every output of the backbone on the clustered tokens: take "
                f"out_indices from {self.layer} on and no restore_at, or restore='feature'."
            )

    def pool(self, x, raster, grid, valid, exists):
        with ops.full_precision(x):
            # Distances are computed from products; subtracting the mean first keeps their last digits.
            x = x.float()
            origin = ops.pool_to_grid(x.detach(), raster, (1, 1), valid)
            x = x - origin
            centres, scale = cluster(x, raster, grid, self.window, self.iterations, self.temperature, valid)
            with torch.no_grad():
                restore = reconstruction(x, centres, self.neighbors, scale, exists)

        batch, number = centres.shape[:2]

        def sizes(old: Tensor) -> Tensor:
            # A centre gets the weighted sizes of the old tokens; the clamp keeps the logarithm finite.
            real = old.expand(batch, -1) if valid is None else old * valid
            return restore.transposed(real, number).clamp(min=1e-3)

        return centres + origin, restore, sizes

    def finish(self, state: TokenState, head: nn.Module, feats: tuple, name: str) -> Tensor:
        """Runs a head on the reduced maps and restores its logits ``(B, classes, H, W)``."""
        try:
            logits = head.forward(feats)
            fits = isinstance(logits, Tensor) and logits.shape[-2:] == state.raster
            reason = '' if fits else 'gives another shape'
        except RuntimeError as error:  # of shapes: a head that mixes maps of several sizes, as those for depth do
            reason = f'cannot run on them ({str(error).splitlines()[0]})'
        if reason:
            raise ValueError(
                "reducer.restore='late' needs a head with one logit map on the tokens it gets; "
                f"{type(head).__name__} {reason}. Set restore='feature'."
            )
        full = state.dense(logits.flatten(2).transpose(1, 2))
        return full.transpose(1, 2).unflatten(2, state.grid)

    def closed_form(self, host, grid, state=None):
        tokens, small = self.tokens_on_paper(host, grid)
        n, m, dims = grid[0] * grid[1], small[0] * small[1], host.embed_dims
        if n == m:
            return Cost(tokens, tokens)
        # Distances in the tiles and new sums; then each token to all centres.
        reduce = self.iterations * 2 * math.prod(tile_shape(grid, small, self.window)) * dims + n * m * dims
        if self.proportional:
            reduce += n * m  # sizes of the centres
        return Cost(tokens, tokens, reduce, restore=n * m * dims)
