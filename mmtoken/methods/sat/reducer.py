"""SAT: the scale-adaptive tokens of SAT-HMR."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtoken.core import REDUCERS, Cost, HostInfo, Packing, Reducer, TokenHost, TokenState, ops
from mmtoken.core.arguments import check_flag, check_int, check_number
from mmtoken.methods.mixed_scale.cells import Cells, whole_patches

from .scale_map import focal_loss, scale_targets


@dataclass
class ScaleRecord:
    """What the scale head said in one pass.

    Args:
        maps (Tensor): Confidence and scale of each cell ``(B, 2, h·w)``, fp32, 0 to 1.
        cells (Cells): The cells of 2×2 patches of the padded picture.
        patch (int): Side of a patch in pixels.
        longest (int): Longest side of the picture in pixels.
        levels (Tensor): Level of the token that stands for each cell ``(B, h·w)``, int64, 0 for four fine ones.
    """

    maps: Tensor
    cells: Cells
    patch: int
    longest: int
    levels: Tensor


@REDUCERS.register_module()
class SAT(Reducer):
    """Gives small people fine tokens, large ones coarse tokens, and the background pooled ones.

    Independent implementation of the encoder of SAT-HMR (arXiv 2411.19824, section 3.2), token by token: a
    low-resolution branch of its own first blocks looks at the picture at half size; a scale head says for each cell of
    2×2 patches how likely it shows a person and how large; cells of small people are looked at again, as four fine
    tokens, by the backbone's own first blocks; complete 2×2 blocks of background cells become one token, the maximum of
    the four; the rest of the backbone runs on all of them. Pictures are padded to whole blocks.

    Weights of the low-resolution branch that a checkpoint lacks are copied from the backbone's first blocks, patch
    embedding and norm. Set ``backbone.table='crop'`` and ``img_size`` to the longest side for the paper's positions.

    Args:
        blocks (int): Blocks of the low-resolution branch, and of the fine one. Defaults to 3.
        levels (int): Resolutions: 1 leaves the backbone as it is, 2 pools nothing, 3 pools background once, 4 twice.
            Defaults to 3.
        confidence (float): Cells above it show somebody. Defaults to 0.3.
        scale (float): Those below it show somebody small. Defaults to 0.5.
        guided (float): Part of the training during which the labels decide instead of the head. Defaults to 0.
        mask_padding (bool): Let tokens that are padding leave; the paper keeps them. Defaults to False.
        discard (bool): Let pooled background leave instead, an ablation of the paper. Defaults to False.
        frozen_branch (bool): Keep the low-resolution branch as it is copied, so that only the scale head learns.
            Defaults to False.
        frozen (bool): Keep branch and scale head as they were loaded, without losses. If the backbone is frozen too,
            tokens depend on the picture alone and can be cached while a decoder is trained. Defaults to False.
        weight_confidence (float): Weight of the confidence's focal loss. Defaults to 4.
        weight_scale (float): Weight of the scale's L1 loss. Defaults to 4.

    Raises:
        ValueError: For a bad argument, in one line.
    """

    dynamic = True
    trainable = True
    paper = 'SAT-HMR: Real-Time Multi-Person 3D Mesh Estimation via Scale-Adaptive Tokens, CVPR 2025, 2411.19824'
    identity_example = dict(levels=1)
    examples = (
        dict(blocks=0, levels=2, confidence=0.0, scale=0.6),
        dict(blocks=0, levels=2, confidence=0.0, scale=0.54),
        dict(blocks=0, levels=3, confidence=0.5, scale=0.54, mask_padding=True),
    )
    lively_example = dict(confidence=1.0)
    #: Maps ``(B, 2, h·w)`` that decide instead of the scale head, see ``guided``.
    guide: Tensor | None = None

    def __init__(
        self,
        blocks: int = 3,
        levels: int = 3,
        confidence: float = 0.3,
        scale: float = 0.5,
        guided: float = 0.0,
        mask_padding: bool = False,
        discard: bool = False,
        frozen_branch: bool = False,
        frozen: bool = False,
        weight_confidence: float = 4.0,
        weight_scale: float = 4.0,
    ):
        super().__init__()
        self.first = check_int('blocks', blocks, 0)
        self.levels = check_int('levels', levels, 1, 4)
        self.confidence, self.scale = check_number('confidence', confidence, 0, 1), check_number('scale', scale, 0, 1)
        self.guided = check_number('guided', guided, 0, 1)
        self.mask_padding = check_flag('mask_padding', mask_padding)
        self.discard = check_flag('discard', discard)
        self.frozen_branch = check_flag('frozen_branch', frozen_branch)
        self.frozen = check_flag('frozen', frozen)
        self.weights = (
            check_number('weight_confidence', weight_confidence, 0),
            check_number('weight_scale', weight_scale, 0),
        )
        self.trainable = levels > 1 and not frozen
        if self.guided:
            self.varies = f'follows the labels at first (guided={guided:g})'

    # ------------------------------------------------------------------ checks and weights
    def refuses(self, host: HostInfo) -> str:
        if not hasattr(host.host, 'positions'):
            return 'reads the table of positions itself, which mmtoken.TokenDINOv2 lets it'
        return super().refuses(host)

    def bind(self, host: HostInfo) -> None:
        if self.levels == 1:
            return
        if self.first >= host.depth or self.first > min(host.out_indices):
            raise ValueError(
                f'reducer.blocks={self.first} must not come after the first output of the backbone (after block '
                f'{min(host.out_indices)}): both resolutions run apart until then.'
            )
        self.blocks = copy.deepcopy(nn.ModuleList(host.host.blocks[: self.first]))
        self.patch_embed, self.norm = copy.deepcopy(host.host.patch_embed), copy.deepcopy(host.host.norm)
        dims = host.embed_dims
        hidden = [layer for _ in range(3) for layer in (nn.Linear(dims, dims), nn.ReLU())]
        self.head = nn.Sequential(*hidden, nn.Linear(dims, 2))
        for part in (self.blocks, self.patch_embed, self.norm):
            part.requires_grad_(not self.frozen_branch)
        if self.frozen:
            self.requires_grad_(False)

    def copies(self) -> dict[str, str]:
        if self.levels == 1:
            return {}
        return {'blocks.': 'blocks.', 'patch_embed.': 'patch_embed.', 'norm.': 'norm.'}

    # ------------------------------------------------------------------ the pass
    def start(self, host: TokenHost, images: Tensor, padding: Tensor | None) -> TokenState:
        if self.levels == 1:
            state = host.embed(images, padding)
            if self.mask_padding and padding is not None:
                state.select(~padding.flatten(1), self)
            return state
        patch, longest, images = host.patch_size, max(images.shape[-2:]), host.fitted(images)
        height, width = grid = host.grid_of(images.shape[-2:])
        whole = self.canvas(grid)
        images = whole_patches(images, grid, patch, padding if self.mask_padding else None)
        images = F.pad(images, (0, (whole[1] - width) * patch, 0, (whole[0] - height) * patch))
        cells = Cells(whole, images.device)

        # Nobody reads the tokens of this state, only how many there are.
        state = TokenState(images.new_zeros(1, 1, 1), grid, host.num_prefix)
        state.x = state.x.expand(len(images), host.num_prefix + height * width, host.embed_dims)
        padded = self.padded_patches(host.noted(state, padding), cells.grid)
        hidden = padded if self.mask_padding else None
        outside = None if hidden is None else self.whole(hidden, cells)
        coarse, values = self.run_coarse(host, images, cells, outside)
        maps = self.head(self.norm(values)).float().sigmoid().transpose(1, 2)
        level = self.assign(maps, cells, outside)
        wanted = (level == 0)[:, cells.of_patches()[0]]
        fine, counts = self.run_fine(host, images, cells, wanted if hidden is None else wanted & ~hidden)
        state.x = fine.new_zeros(1, 1, 1).expand(state.x.shape)
        if outside is not None:  # a pooled token is the largest of the cells that are there
            values = values.masked_fill(outside[..., None], torch.finfo(values.dtype).min)
        self.mix(state, fine, values, coarse.prefix, cells, level, padded)
        if self.discard:
            state.select(state.sizes < 16, self)
        if self.mask_padding and state.padding is not None:
            state.select(~state.padding, self)
        state.block = self.first
        state.counts = [a + b - len(images) * host.num_prefix for a, b in zip(coarse.counts, counts)]
        state.aux[self] = ScaleRecord(maps, cells, patch, longest, level)
        return state

    def canvas(self, grid: tuple[int, ...]) -> tuple[int, int]:
        """Returns the patches of a picture that is padded to whole blocks."""
        side = 2 ** (self.levels - 1)
        return -(-grid[0] // side) * side, -(-grid[1] // side) * side

    def prepare(self, host: TokenHost, images: Tensor, targets: list) -> None:
        if self.levels > 1 and self.progress < self.guided:
            cells = Cells(self.canvas(host.grid_of(images.shape[-2:])), images.device)
            self.guide = scale_targets(targets, cells, host.patch_size, max(images.shape[-2:]))

    def run_coarse(
        self, host: TokenHost, images: Tensor, cells: Cells, outside: Tensor | None
    ) -> tuple[TokenState, Tensor]:
        """Runs the low-resolution branch: a token for each cell, after blocks of its own.

        Args:
            host (TokenHost): The backbone.
            images (Tensor): ``(B, 3, H·patch, W·patch)``.
            cells (Cells): The cells.
            outside (Tensor, optional): Cells that nobody may look at ``(B or 1, h·w)``, bool.

        Returns:
            tuple[TokenState, Tensor]: The branch at its end, and the token of each cell ``(B, h·w, C)``, zeros outside.
        """
        tokens = self.patch_embed.proj(F.avg_pool2d(images, 2)).flatten(2).transpose(1, 2)
        cls_position, positions = host.positions(cells.shape, 2)
        prefix = host.prefix_tokens(cls_position, len(images), tokens)
        coarse = TokenState(torch.cat([prefix, tokens + positions], dim=1), cells.shape, host.num_prefix)
        kept = None if outside is None else coarse.select(~outside.expand(len(images), -1), self)
        for block in self.blocks:
            coarse.x, _ = host.run(host.attend, block, coarse.x, coarse.layout)
            coarse.counts.append(coarse.x.shape[:-1].numel())
            coarse.x = host.run(host.mlp, block, coarse.x)
        if kept is None:
            return coarse, coarse.patches
        values = coarse.x.new_zeros(len(images) * cells.number, coarse.x.shape[-1]).index_copy(0, kept, coarse.patches)
        return coarse, values.unflatten(0, (len(images), -1))

    def run_fine(self, host: TokenHost, images: Tensor, cells: Cells, wanted: Tensor) -> tuple[Tensor, list[int]]:
        """Runs the fine branch: the patches of small cells, alone, through the backbone's own first blocks.

        Args:
            host (TokenHost): The backbone.
            images (Tensor): ``(B, 3, H·patch, W·patch)``.
            cells (Cells): The cells.
            wanted (Tensor): Patches that are embedded ``(B, H·W)``, bool.

        Returns:
            tuple[Tensor, list[int]]: Tokens of these patches in their places among ``(B, H·W, C)``, zeros elsewhere;
            and the tokens of each block, see :attr:`TokenState.counts`.
        """
        (height, width), patch, first = cells.grid, host.patch_size, host.num_prefix
        packing = Packing(wanted.sum(1) + first)
        at = ops.indices_of(wanted.flatten(), packing.total - first * len(packing))
        image, place = at // (height * width), at % (height * width)
        pixels = images.unflatten(3, (width, patch)).unflatten(2, (height, patch)).permute(0, 2, 4, 1, 3, 5)
        tokens = host.patch_embed.proj(pixels[image, place // width, place % width]).flatten(1)
        cls_position, positions = host.positions(cells.grid)
        tokens = tokens + positions[0, place]
        prefix = host.prefix_tokens(cls_position, len(images), tokens)
        canvas = tokens.new_zeros(len(images) * height * width, tokens.shape[-1])
        rows = packing.rows_from(first)

        state = TokenState(canvas[None], cells.grid, first)
        state.layout = state.layout.reduced(packing=packing)
        state.x = prefix[:, :1].new_zeros(packing.total, tokens.shape[-1]).index_copy(0, rows, tokens)
        starts = packing.ends[:-1, None] + torch.arange(first, device=rows.device)
        state.x = state.x.index_copy(0, starts.flatten(), prefix.flatten(0, 1))
        host.run_blocks(state, range(self.first))
        canvas = canvas.to(state.x.dtype).index_copy(0, at, state.x[rows])
        return canvas.unflatten(0, (len(images), -1)), state.counts

    @torch.no_grad()
    def assign(self, maps: Tensor, cells: Cells, outside: Tensor | None) -> Tensor:
        """Decides the level of each cell ``(B, h·w)``, int64: 0 fine, 1 one token, 2 and 3 a part of a pooled one.

        A background cell is pooled only if the whole aligned 2×2 block of cells is background (4×4 for level 3). Cells
        outside of the picture are background.
        """
        if self.training and self.progress < self.guided and self.guide is not None:
            maps = self.guide.to(maps.device).float()
        someone = maps[:, 0] > self.confidence
        if outside is not None:
            someone = someone & ~outside
        level = torch.where(someone & (maps[:, 1] < self.scale), 0, 1)
        background = (~someone).unflatten(1, cells.shape).float()[:, None]
        for up in range(2, self.levels):
            size = 2 ** (up - 1)
            whole = -F.max_pool2d(-background, size)  # 1 where every cell of the block is background
            whole = whole.repeat_interleave(size, 2).repeat_interleave(size, 3).flatten(1)
            level = torch.where(whole > 0, up, level)
        return level

    def mix(
        self,
        state: TokenState,
        fine: Tensor,
        coarse: Tensor,
        prefix: Tensor,
        cells: Cells,
        level: Tensor,
        padded: Tensor | None,
    ) -> None:
        """Replaces the full grid of ``state`` by the tokens of all levels, in raster order."""
        height, width = cells.grid
        y = torch.arange(height, device=cells.device)[:, None].expand(height, width).flatten()
        x = torch.arange(width, device=cells.device)[None].expand(height, width).flatten()
        level = level[:, cells.of_patches()[0]]  # of each patch ``(B, H·W)``
        own, tokens = torch.arange(height * width, device=cells.device), fine
        place = own.expand(len(level), -1)
        pooled = coarse.transpose(1, 2).unflatten(2, cells.shape)
        coords = torch.stack([y, x], dim=-1).float()[None]
        for up in range(1, self.levels):
            side = 2**up
            if up > 1:
                pooled = F.max_pool2d(pooled, 2)
            here = level == up
            values = pooled.flatten(2).transpose(1, 2)[:, y // side * (width // side) + x // side]
            tokens = torch.where(here[..., None], values, tokens)
            place = torch.where(here, y // side * side * width + x // side * side, place)
            coords = torch.where(here[..., None], coords + (side - 1) / 2, coords)
            if padded is not None:  # a token is padding if all of its patches are
                whole = self.whole(padded, cells, side)
                padded = torch.where(here, whole[:, y // side * (width // side) + x // side], padded)
        if self.mask_padding and padded is not None:
            tokens = tokens.masked_fill(padded[..., None], 0)  # they leave, and are given back where padding was
        inside = ((y < state.grid[0]) & (x < state.grid[1])).nonzero()[:, 0]
        state.take(
            tokens,
            place == own,
            place[:, inside],
            coords=coords,
            sizes=4.0**level,
            padding=padded,
            prefix=prefix,
            owner=self,
        )

    @staticmethod
    def whole(padded: Tensor, cells: Cells, side: int = 2) -> Tensor:
        """Returns which squares of ``side`` patches, or cells, hold nothing but padding ``(B or 1, n)``, bool."""
        return -F.max_pool2d(-padded.unflatten(1, cells.grid).float(), side).flatten(1) > 0

    @staticmethod
    def padded_patches(state: TokenState, canvas: tuple[int, int]) -> Tensor | None:
        """Returns which patches of the padded picture hold nothing but padding ``(B or 1, H·W)``, bool; None if none.

        Args:
            state (TokenState): The full grid of the picture as it came.
            canvas (tuple[int, int]): Patches of the padded picture ``(H, W)``.
        """
        grid, padding = state.grid, state.padding
        if padding is None and canvas == grid:
            return None
        if padding is None:
            padding = torch.zeros(1, grid[0] * grid[1], dtype=torch.bool, device=state.x.device)
        return F.pad(padding.unflatten(1, grid), (0, canvas[1] - grid[1], 0, canvas[0] - grid[0]), value=True).flatten(
            1
        )

    # ------------------------------------------------------------------ around the pass
    def losses(self, state: TokenState, targets: list | None = None) -> dict[str, Tensor]:
        """Returns the losses of the scale head: focal over all cells, L1 over those that show somebody."""
        record = state.aux[self]
        confidence, scale = record.maps.unbind(1)
        goal = scale_targets(targets or [], record.cells, record.patch, record.longest)
        if goal is None:
            raise ValueError(
                'reducer SAT learns from gt_scale_map, from the boxes of gt_instances or from gt_sem_seg, and the data '
                'samples hold none of them.'
            )
        there, size = goal.unbind(1)
        error = ((scale - size).abs() * there).sum() / there.sum().clamp(min=1)
        return {
            'loss_map_confidence': self.weights[0] * focal_loss(confidence, there),
            'loss_map_scale': self.weights[1] * error,
        }

    def maps(self, state: TokenState) -> dict[str, Tensor]:
        """Returns ``scale_map (B, 2, h, w)``, confidence and scale of each cell, and ``token_levels (B, 1, h, w)``."""
        if self.levels == 1:
            return {}
        record = self.kept(state)
        shape = record.cells.shape
        return dict(scale_map=record.maps.unflatten(2, shape), token_levels=record.levels.unflatten(1, shape)[:, None])

    def closed_form(self, host: HostInfo, grid: tuple[int, int], state: TokenState | None = None) -> Cost:
        if self.levels == 1:
            return Cost([grid[0] * grid[1]] * host.depth, [grid[0] * grid[1]] * host.depth)
        record = self.kept(state)
        counts = [int((record.levels == up).sum()) for up in range(self.levels)]
        fine, cells, dims = 4 * counts[0], record.cells.number, host.embed_dims
        pooled = sum(counts[up] // 4 ** (up - 1) for up in range(2, self.levels))
        mixed = fine + counts[1] + (0 if self.discard else pooled)
        tokens = [(cells, fine)] * self.first + [mixed] * (host.depth - self.first)
        patches = 3 * host.host.patch_size**2 * dims
        stem = (fine - grid[0] * grid[1]) * patches  # of the picture only the fine patches are embedded
        return Cost(tokens, tokens, reduce=cells * (3 * dims**2 + 2 * dims) + cells * patches, stem=stem)
