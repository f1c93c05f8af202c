"""MixedScale: coarse tokens where little happens, fine tokens where detail is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmtoken.core import REDUCERS, Cost, HostInfo, Reducer, TokenHost, TokenState, ops
from mmtoken.core.arguments import check_choice, check_flag, check_list, check_number

from .cells import Cells, whole_patches
from .selectors import Selector, build_selector, covered, impurity


@dataclass
class Mixture:
    """How the cells of a batch were mixed in one pass.

    Args:
        needs (Tensor): What the selector said of each cell ``(B, h·w)``, fp32.
        fine (Tensor): Which cells got fine tokens ``(B, h·w)``, bool.
        cells (Cells): The cells.
        patch (int): Side of a patch in pixels.
        features (Tensor, optional): What the selector's head looked at ``(B, h·w, C)``.
    """

    needs: Tensor
    fine: Tensor
    cells: Cells
    patch: int
    features: Tensor | None = None


@REDUCERS.register_module()
class MixedScale(Reducer):
    """Starts from tokens of two resolutions: one for each cell of 2×2 patches, four where the cell needs detail.

    A coarse token is the patch embedding of its cell in the picture at half size (each cell of 2p×2p pixels becomes a
    patch of p×p), with its position on the same table. Attention weighs it by its four patches. Nothing has to be
    trained. The neighbours are MSViT (arXiv 2307.02321), whose tokens are these, and SAT-HMR (arXiv 2411.19824), whose
    selector is ``coarse``; see :class:`mmtoken.methods.sat.SAT` for the latter's own encoder.

    Patches of an odd last row or column belong to no cell and stay fine.

    Args:
        fine (float, optional): Part of the cells that get fine tokens, in [0, 1]; 1 reduces nothing. Token counts are
            then the same for every picture of a size. Defaults to 0.5, or to None with ``threshold``.
        threshold (float, optional): Instead of ``fine``: cells that need more than this get fine tokens, as many as
            there are. Token counts differ from picture to picture.
        selector (str | dict): Which cells need detail: ``detail`` (most edges), ``coarse`` (a linear head on coarse
            tokens after a few blocks), ``learned`` (a trained gate), ``boxes``; or a dict with its name as ``type``.
            Defaults to ``detail``.
        proportional (bool): Weigh keys by the patches that each token stands for. Defaults to True.
        restore (str): ``feature`` gives a coarse token's features to its four patches; ``logits`` runs the head on the
            map of cells too, and takes what it says there for coarse cells (needs ``mmtoken.TokenEncoderDecoder``).
            Right for heads that were trained on whole pictures. Defaults to ``feature``.
        coarse_head (dict, optional): With ``restore='logits'``: config of a decode head of its own for the map of
            cells; by default the model's own.
        random (tuple[float, float], optional): In training, draw ``fine`` anew for each batch from this range, so that
            one model serves many budgets.

    Raises:
        ValueError: For a bad argument, in one line.
    """

    paper = 'No paper; the tokens are those of MSViT, 2307.02321'
    identity_example = dict(fine=1.0)
    examples = (dict(fine=0.7), dict(fine=0.4, selector=dict(type='coarse', blocks=0)), dict(fine=0.1))

    def __init__(
        self,
        fine: float | None = None,
        threshold: float | None = None,
        selector: str | dict = 'detail',
        proportional: bool = True,
        restore: str = 'feature',
        coarse_head: dict | None = None,
        random: tuple[float, float] | None = None,
    ):
        super().__init__()
        if fine is not None and threshold is not None:
            raise ValueError(f'Give either fine or threshold, not fine={fine!r} and threshold={threshold!r}.')
        fine = 0.5 if fine is None and threshold is None else fine
        self.fine: Any = None if fine is None else check_number('fine', fine, 0, 1)
        self.threshold: Any = None if threshold is None else check_number('threshold', threshold)
        self.dynamic = threshold is not None
        self.selector: Selector = build_selector(selector)
        self.proportional = check_flag('proportional', proportional)
        self.restore = check_choice('restore', restore, ('feature', 'logits'))
        if coarse_head is not None and restore != 'logits':
            raise ValueError("coarse_head reads the map of cells, which takes restore='logits'; set both or none.")
        self.coarse_head: Any = coarse_head
        self.random = None
        if random is not None:
            low, high = (check_number('random', value, 0, 1) for value in check_list('random', random, 2))
            if self.dynamic or low > high:
                raise ValueError(f'random={random!r} must be two parts of the cells, the smaller first, with fine.')
            self.random = (low, high)
            self.varies = f'draws its budget (random={random!r})'
        self.trainable = self.selector.trainable or coarse_head is not None
        if restore == 'logits':
            self.finishes = "restore='logits' joins what the head says of coarse and of fine tokens"

    # ------------------------------------------------------------------ checks
    def refuses(self, host: HostInfo) -> str:
        if not host.any_size:
            return (
                'needs the picture at half size too, which this backbone does not take; use one with absolute positions'
            )
        return super().refuses(host)

    def bind(self, host: HostInfo) -> None:
        self.selector.bind(host)
        if self.coarse_head is not None:
            from mmengine.registry import MODELS

            self.coarse_head = MODELS.build(self.coarse_head)

    def search_space(self, host: HostInfo) -> dict[str, tuple | list]:
        return {} if self.dynamic else dict(fine=(0.1, 1.0))

    # ------------------------------------------------------------------ the pass
    def start(self, host: TokenHost, images: Tensor, padding: Tensor | None) -> TokenState:
        part = self.part()
        if part == 1:
            return host.embed(images, padding)
        patch = host.patch_size
        state = host.embed(images, padding)
        cells = Cells(state.grid, state.x.device)
        if min(cells.shape) < 1:
            raise ValueError(
                f'reducer MixedScale: the picture has {state.grid[0]}x{state.grid[1]} patches, less than one cell of '
                '2x2; feed a larger one.'
            )
        h, w = cells.shape
        images = whole_patches(host.fitted(images), state.grid, patch, padding)
        half = F.avg_pool2d(images[..., : 2 * h * patch, : 2 * w * patch], 2)
        coarse = host.run_blocks(host.embed(half), range(self.selector.blocks))
        needs = self.selector(images, coarse, cells, patch)
        fine = self.choose(needs, cells, part, state.padding)
        gate = None
        if self.training and self.selector.trainable and not self.selector.blocks:
            soft = needs.sigmoid()
            gate = (torch.where(fine, soft, 1 - soft) / torch.where(fine, soft, 1 - soft).detach())[..., None]
        self.mix(host, state, coarse, cells, fine, part, gate)
        state.aux[self] = Mixture(needs, fine, cells, patch, self.selector.features(coarse))
        return state

    def part(self) -> float | None:
        """Returns the part of the cells that gets fine tokens now; None if a threshold decides."""
        if self.random is None or not self.training:
            return self.fine
        low, high = self.random
        return low + (high - low) * float(torch.rand(()))

    @torch.no_grad()
    def choose(self, needs: Tensor, cells: Cells, part: float | None, padding: Tensor | None) -> Tensor:
        """Decides which cells get fine tokens ``(B, h·w)``, bool; cells of padding come last."""
        needs = needs.detach()
        if padding is not None:
            needs = needs.masked_fill(cells.to_cells(padding).all(-1), float('-inf'))
        return needs > self.threshold if part is None else ops.largest(needs, self.number(part, cells.number))

    @staticmethod
    def number(part: float, cells: int) -> int:
        """Returns how many of the cells get fine tokens."""
        return round(part * cells)

    def run_fine(self, host: TokenHost, state: TokenState, is_coarse: Tensor, part: float | None, cells: Cells) -> None:
        """Runs the selector's blocks on the fine tokens alone; afterwards ``state`` holds the full grid again."""
        if part is None:
            state.select(~is_coarse, self)
        else:
            state.keep(ops.places_of(~is_coarse, 4 * self.number(part, cells.number) + cells.outside), self)
        host.run_blocks(state, range(self.selector.blocks))
        state.restore(self)

    def mix(
        self,
        host: TokenHost,
        state: TokenState,
        coarse: TokenState,
        cells: Cells,
        fine: Tensor,
        part: float | None,
        gate: Tensor | None,
    ) -> None:
        """Replaces the full grid by coarse and fine tokens in raster order.

        Args:
            host (TokenHost): The backbone.
            state (TokenState): The full grid of fine tokens.
            coarse (TokenState): A token for each cell.
            cells (Cells): The cells.
            fine (Tensor): Which of them stay fine ``(B, h·w)``, bool.
            part (float, optional): Part of the cells that stay fine; None if that differs between images.
            gate (Tensor, optional): Weight of each cell's tokens ``(B, h·w, 1)``, one in value.
        """
        is_coarse, place = cells.lead(fine)
        cell, _, _ = cells.of_patches()
        prefix = None
        if self.selector.blocks:
            self.run_fine(host, state, is_coarse, part, cells)
            prefix = coarse.prefix  # that of the fine tokens saw a part of the picture
            images = len(is_coarse)
            state.counts = [a + b - images * state.num_prefix for a, b in zip(coarse.counts, state.counts)]
        coarse_tokens, fine_tokens = coarse.patches, state.patches
        if gate is not None:
            coarse_tokens = coarse_tokens * gate.to(coarse_tokens.dtype)
            fine_tokens = fine_tokens * torch.where(is_coarse, 1, gate[:, cell, 0]).to(fine_tokens.dtype)[..., None]
        padding = state.padding
        if padding is not None:  # a coarse token is padding if all of its patches are
            padding = torch.where(is_coarse, cells.to_cells(padding).all(-1)[:, cell], padding)
        state.take(
            torch.where(is_coarse[..., None], coarse_tokens[:, cell], fine_tokens),
            place == torch.arange(place.shape[1], device=place.device),
            place,
            coords=state.coords + 0.5 * is_coarse[..., None],
            sizes=torch.where(is_coarse, 4.0, 1.0),
            padding=padding,
            number=None if part is None else 3 * self.number(part, cells.number) + cells.number + cells.outside,
            prefix=prefix,
            proportional=self.proportional,
            owner=self,
        )

    # ------------------------------------------------------------------ around the pass
    def finish(self, state: TokenState, head: Any, feats: tuple, name: str) -> Any:
        """Joins a head's logits on the fine map and, enlarged, on the map of cells ``(B, K, H', W')``."""
        logits = head.forward(feats)
        if self not in state.aux:  # every cell is fine
            return logits
        fine, cells = state.aux[self].fine, state.aux[self].cells
        if not isinstance(logits, Tensor) or any(a % b for a, b in zip(logits.shape[-2:], state.grid)):
            raise ValueError(
                f"reducer.restore='logits' joins maps of logits, a whole number for each patch; {type(head).__name__} "
                "gives something else. Set restore='feature'."
            )
        scale = logits.shape[-2] // state.grid[0]
        reader = self.coarse_head if self.coarse_head is not None and name == 'decode' else head
        size = tuple(2 * scale * n for n in cells.shape)
        coarse = reader.forward(tuple(_halved(feat) for feat in feats))
        if coarse.shape[-2:] != size:
            coarse = F.interpolate(coarse, size, mode='bilinear', align_corners=head.align_corners)
        down, across = (a - b for a, b in zip(logits.shape[-2:], size))
        coarse = F.pad(coarse, (0, across, 0, down))
        is_coarse = cells.lead(fine)[0].unflatten(1, state.grid)[:, None]
        is_coarse = is_coarse.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        return torch.where(is_coarse, coarse.to(logits.dtype), logits)

    def losses(self, state: TokenState, targets: list | None = None) -> dict[str, Tensor]:
        if self not in state.aux or not self.selector.trainable:
            return {}
        seen = state.aux[self]
        return self.selector.losses(seen.needs, seen.fine, _need_labels(targets, seen.cells, seen.patch))

    def closed_form(self, host: HostInfo, grid: tuple[int, int], state: TokenState | None = None) -> Cost:
        cells, full = Cells(grid, torch.device('cpu')), grid[0] * grid[1]
        if self.fine == 1:
            return Cost([full] * host.depth, [full] * host.depth)
        opened = int(self.kept(state).fine.sum()) if self.dynamic else self.number(self.fine, cells.number)
        mixed, few = 3 * opened + cells.number + cells.outside, 4 * opened + cells.outside
        blocks = self.selector.blocks
        tokens = [(cells.number, few)] * blocks + [mixed] * (host.depth - blocks)
        stem = cells.number * 3 * host.host.patch_size**2 * host.embed_dims  # the patches of the half-size picture
        return Cost(tokens, tokens, reduce=self.selector.closed_form(host, cells.number), stem=stem)


def _halved(feat: Any) -> Any:
    """A feature map of patches ``(B, C, H, W)``, alone or in ``[map, class token]``, as one of cells."""
    return F.avg_pool2d(feat, 2) if isinstance(feat, Tensor) else [F.avg_pool2d(feat[0], 2), *feat[1:]]


def _need_labels(targets: list | None, cells: Cells, patch: int) -> Tensor | None:
    """How much each cell needs fine tokens by the labels: mixed classes, or a part of it inside a box."""
    if targets and all('gt_sem_seg' in target for target in targets):
        labels = torch.cat([target.gt_sem_seg.data for target in targets]).to(cells.device)
        return (impurity(labels, cells, patch) > 0).float()
    if targets and all('gt_instances' in target for target in targets):
        boxes = [getattr(target.gt_instances.bboxes, 'tensor', target.gt_instances.bboxes) for target in targets]
        return (covered(boxes, cells, patch) > 0).float()
    return None
