"""Which cells of a picture need fine tokens: four answers behind one small interface."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtoken.core import HostInfo, TokenState
from mmtoken.core.arguments import check_choice, check_int, check_number

from .cells import Cells


class Selector(nn.Module):
    """Says how much each cell needs fine tokens."""

    #: Blocks of the backbone that run on the coarse tokens before the selector looks at them.
    blocks: int = 0
    #: Whether it has parameters to train, see :meth:`losses`.
    trainable: bool = False

    def bind(self, host: HostInfo) -> None:
        """Checks the arguments against the backbone and makes the parameters."""

    def forward(self, images: Tensor, coarse: TokenState, cells: Cells, patch: int) -> Tensor:
        """Returns the need of each cell.

        Args:
            images (Tensor): ``(B, 3, H, W)``, normalised.
            coarse (TokenState): Coarse tokens, after :attr:`blocks` blocks.
            cells (Cells): The cells.
            patch (int): Side of a patch in pixels.

        Returns:
            Tensor: ``(B, h·w)``, fp32; the more the higher.
        """
        raise NotImplementedError

    def features(self, coarse: TokenState) -> Tensor | None:
        """Returns what a linear head of the selector reads ``(B, h·w, C)``; None if it has none."""
        return None

    def losses(self, needs: Tensor, fine: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """Returns the losses of a trainable selector.

        Args:
            needs (Tensor): What it said ``(B, h·w)``.
            fine (Tensor): Which cells stayed fine ``(B, h·w)``, bool.
            labels (Tensor, optional): Part of each cell that the labels call unlike the rest ``(B, h·w)``, see
                :func:`impurity`.
        """
        return {}

    def closed_form(self, host: HostInfo, cells: int) -> int:
        """Returns its multiply-adds for one image."""
        return 0


class DetailSelector(Selector):
    """Takes the cells with most edges: the mean of the Sobel magnitude over the pixels of a cell. Nothing to train."""

    def forward(self, images: Tensor, coarse: TokenState, cells: Cells, patch: int) -> Tensor:
        h, w = cells.shape
        grey = images[..., : 2 * h * patch, : 2 * w * patch].float().mean(1, keepdim=True)
        grey = F.pad(grey, (1, 1, 1, 1), mode='replicate')
        across = grey[..., 2:] - grey[..., :-2]
        across = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
        down = grey[..., 2:, :] - grey[..., :-2, :]
        down = down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]
        return F.avg_pool2d((across.square() + down.square()).sqrt(), 2 * patch).flatten(1)


class CoarseSelector(Selector):
    """Asks a linear head on the coarse tokens after a few blocks, as SAT-HMR's scale head (arXiv 2411.19824) does.

    Train it (:meth:`losses`), or fit it in seconds by least squares with ``tools/misc/fit_selector.py``.

    Args:
        blocks (int): Blocks that run on the coarse tokens first. Defaults to 3.
    """

    trainable = True

    def __init__(self, blocks: int = 3):
        super().__init__()
        self.blocks = check_int('selector.blocks', blocks, 0)

    def bind(self, host: HostInfo) -> None:
        if self.blocks >= host.depth or self.blocks > min(host.out_indices):
            raise ValueError(
                f'reducer.selector.blocks={self.blocks} must not come after the first output of the backbone (after '
                f'block {min(host.out_indices)}): coarse and fine tokens run apart until then.'
            )
        self.norm = nn.LayerNorm(host.embed_dims, elementwise_affine=False)
        self.head = nn.Linear(host.embed_dims, 1)

    def features(self, coarse: TokenState) -> Tensor:
        """Returns what the head looks at: normalised coarse tokens ``(B, h·w, C)``."""
        return self.norm(coarse.patches.detach())

    def forward(self, images: Tensor, coarse: TokenState, cells: Cells, patch: int) -> Tensor:
        return self.head(self.features(coarse)).float()[..., 0]

    def losses(self, needs: Tensor, fine: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        if labels is None:
            raise ValueError(
                "reducer.selector='coarse' learns from gt_sem_seg or from the boxes of gt_instances, and the data "
                'samples hold neither; train it on a task that has them, or take another selector.'
            )
        return {'loss_need': F.binary_cross_entropy_with_logits(needs, labels)}

    def closed_form(self, host: HostInfo, cells: int) -> int:
        return cells * host.embed_dims


class LearnedSelector(Selector):
    """Learns a gate on the coarse patch embeddings with a loss on its budget, as MSViT does (arXiv 2307.02321).

    The tokens are weighed by a gate that is one in value and has the gradient of the sigmoid, so the task's own loss
    reaches it.

    Args:
        budget (float): Part of the cells that the gate opens on average, in (0, 1). Defaults to 0.5.
        width (int): Channels of its hidden layer. Defaults to 64.
        weight (float): Weight of the budget's loss. Defaults to 4.
    """

    trainable = True

    def __init__(self, budget: float = 0.5, width: int = 64, weight: float = 4.0):
        super().__init__()
        self.budget = check_number('selector.budget', budget, 0, 1, above=True)
        self.width, self.weight = check_int('selector.width', width, 1), check_number('selector.weight', weight, 0)

    def bind(self, host: HostInfo) -> None:
        self.norm = nn.LayerNorm(host.embed_dims)
        self.layers = nn.Sequential(nn.Linear(host.embed_dims, self.width), nn.GELU(), nn.Linear(self.width, 1))

    def forward(self, images: Tensor, coarse: TokenState, cells: Cells, patch: int) -> Tensor:
        return self.layers(self.norm(coarse.patches)).float()[..., 0]

    def losses(self, needs: Tensor, fine: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        return {'loss_budget': self.weight * (needs.sigmoid().mean() - self.budget).square()}

    def closed_form(self, host: HostInfo, cells: int) -> int:
        return cells * self.width * (host.embed_dims + 1)


class BoxSelector(Selector):
    """Takes the cells that given boxes cover, such as those found in the last frame.

    Set :attr:`boxes` before each pass; the larger the covered part of a cell, the more it needs.
    """

    #: One tensor for each image, ``(N, 4)``: left, top, right, bottom in pixels of the network's input.
    boxes: list[Tensor] | None = None

    def forward(self, images: Tensor, coarse: TokenState, cells: Cells, patch: int) -> Tensor:
        if self.boxes is None or len(self.boxes) != len(images):
            raise ValueError(
                "reducer.selector='boxes' needs model.backbone.reducer.selector.boxes, one tensor (N, 4) for each of "
                f'the {len(images)} images, before each pass.'
            )
        for number, boxes in enumerate(self.boxes):
            if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4:
                shape = tuple(boxes.shape) if isinstance(boxes, Tensor) else type(boxes).__name__
                raise ValueError(
                    f'reducer.selector.boxes[{number}] is {shape}; give a tensor (N, 4): left, top, right, bottom in '
                    'pixels.'
                )
        return covered(self.boxes, cells, patch)


SELECTORS = dict(detail=DetailSelector, coarse=CoarseSelector, learned=LearnedSelector, boxes=BoxSelector)


def build_selector(cfg: str | dict[str, Any]) -> Selector:
    """Builds a selector from its name, or from a dict with its name as ``type`` and its arguments.

    Raises:
        ValueError: For an unknown one, or arguments that it does not have.
    """
    if not isinstance(cfg, (str, dict)):
        raise ValueError(f"selector={cfg!r} must be a name, or a dict such as dict(type='coarse', blocks=3).")
    cfg = dict(type=cfg) if isinstance(cfg, str) else cfg
    check_choice('selector', cfg.get('type'), tuple(SELECTORS))
    try:
        return SELECTORS[cfg['type']](**{key: value for key, value in cfg.items() if key != 'type'})
    except TypeError as error:
        raise ValueError(f'selector={cfg!r}: {error}') from error


def fit_linear(features: Tensor, wanted: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Fits a linear map by ridge regression.

    Args:
        features (Tensor): ``(N, C)``.
        wanted (Tensor): ``(N,)``.
        ridge (float): Weight of the squared norm, for each of the N.

    Returns:
        tuple[Tensor, Tensor]: Weights ``(C,)`` and bias ``()``, fp32.
    """
    a = torch.cat([features, features.new_ones(len(features), 1)], dim=1).double()
    penalty = ridge * len(a) * torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    solution = torch.linalg.solve(a.t() @ a + penalty, a.t() @ wanted.double()).float()
    return solution[:-1], solution[-1]


def covered(boxes: list[Tensor], cells: Cells, patch: int) -> Tensor:
    """Returns the part of each cell that boxes cover, summed over the boxes ``(B, h·w)``, fp32.

    Args:
        boxes (list[Tensor]): For each image ``(N, 4)``: left, top, right, bottom in pixels.
        cells (Cells): The cells.
        patch (int): Side of a patch in pixels.
    """
    side = 2 * patch
    rows, columns = (torch.arange(n, device=cells.device) * side for n in cells.shape)
    needs = torch.zeros(len(boxes), *cells.shape, device=cells.device)
    for b, some in enumerate(boxes):
        left, top, right, bottom = some.to(cells.device).float()[..., None].unbind(1)
        down = (torch.minimum(bottom, rows + side) - torch.maximum(top, rows)).clamp(0)  # (N, h)
        across = (torch.minimum(right, columns + side) - torch.maximum(left, columns)).clamp(0)
        needs[b] = (down.t() @ across) / side**2
    return needs.flatten(1)


def impurity(labels: Tensor, cells: Cells, patch: int, ignore: int = 255) -> Tensor:
    """Returns the part of the pixels of each cell that have another label than most; 0 where all are ignored.

    Args:
        labels (Tensor): ``(B, H, W)``, int64.
        cells (Cells): The cells.
        patch (int): Side of a patch in pixels.
        ignore (int): Label of pixels that count for nothing. Defaults to 255.

    Returns:
        Tensor: ``(B, h·w)``, fp32, 0 to 1.
    """
    h, w = cells.shape
    side = 2 * patch
    labels = labels[:, : h * side, : w * side]
    counts = [F.avg_pool2d((labels == k).float()[:, None], side) for k in labels.unique().tolist() if k != ignore]
    if not counts:
        return torch.zeros(len(labels), cells.number, device=labels.device)
    shares = torch.cat(counts, dim=1)
    total = shares.sum(1)
    return ((total - shares.amax(1)) / total.clamp(min=1e-6)).flatten(1)
