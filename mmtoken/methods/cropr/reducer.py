"""Cropr: drops the tokens that matter least to the task, as learned queries score them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtoken.core import REDUCERS, Cost, HostInfo, Reducer, TokenState
from mmtoken.core.arguments import check_choice, check_flag, check_int, check_list, check_number

from .module import CroprModule
from .schedule import Schedule, blocks_that_prune, check_rates
from .selectors import attention_scores, class_query, random_scores, variance_scores
from .targets import image_labels, instance_labels, patch_labels

#: What each auxiliary target is read from, and the grid of queries by default.
TARGETS: dict[str, tuple[tuple[str, ...], int]] = dict(
    patches=(('gt_sem_seg',), 32), image=(('gt_instances', 'gt_sem_seg'), 1), tokens=(('gt_instances',), 32)
)


@dataclass
class Pass:
    """What Cropr keeps of one pass.

    Args:
        rate (float): Part of the schedule's rate at which it prunes.
        grid (tuple[int, int]): Full patch grid of the first stage ``(H, W)``.
        left (tuple[int, float]): Patch tokens that went on after the last pruning: rounded, and exactly.
        logits (dict[int, Tensor]): By block, those of the auxiliary heads ``(B, queries, classes)``.
        query (Tensor, optional): Of the class token in the running block ``(B, 1, heads, d)``.
    """

    rate: float
    grid: tuple[int, int]
    left: tuple[int, float] = (0, 0.0)
    logits: dict[int, Tensor] = field(default_factory=dict)
    query: Tensor | None = None


@REDUCERS.register_module()
class Cropr(Reducer):
    """Drops tokens after most blocks; all of them join again before the last one.

    Independent implementation of Token Cropr, arXiv 2412.00965. After each block, queries score the tokens, and the
    best go on, in raster order. An auxiliary head that reads the tokens through the same queries learns the task, and
    so the queries learn what matters to it; :meth:`switch_to_deploy` drops the heads and leaves one vector a block.
    Padding is dropped first. Token counts depend on the size of the picture alone.

    Args:
        keep (float | Sequence[float], optional): Part of the tokens left after the last pruning, in (0, 1]; the same
            number is dropped each time. Or the part of all tokens left after each one.
        r (int | Sequence[int], optional): Tokens dropped each time, instead of ``keep``; at other picture sizes this is
            another part of them.
        layers (Sequence[int], optional): Blocks after which tokens are dropped; all that spare a later one by default.
        num_classes (int, optional): Classes of the task; needed with ``selector='cropr'``.
        target (str): What the auxiliary heads predict: ``patches``, the class in each cell of a grid (segmentation);
            ``image``, which classes the picture holds (detection, as in the paper); ``tokens``, the class of the object
            in each cell, from boxes or masks (detection). Defaults to ``patches``.
        rare_classes (Sequence[int], optional): With ``target='patches'``, classes that label every cell with a pixel of
            theirs, the first one before the others. By default a cell has the class of a single pixel.
        queries (int | tuple[int, int], optional): Grid of queries over the picture, ``(h, w)`` or the side of a square;
            independent of the size of the picture. Defaults to 32, with ``target='image'`` to 1.
        norm (bool): Layer-normalise the tokens that the queries read, so that these learn at the same pace on every
            backbone. Defaults to False, as published.
        restore (str): ``llf``: before the last block dropped tokens join the others, with the features that they left
            with (Last-Layer Fusion). ``scatter``: they join after the last block. Defaults to ``llf``.
        selector (str): ``cropr``, or a baseline that needs no training: ``random``, ``variance`` (over the channels of
            a token), ``attention`` (that the class token pays). Defaults to ``cropr``.
        multiple (int): Round the tokens of an image, class and register tokens included, down to a multiple of this; 8
            suits GPUs. Defaults to 1.
        curriculum (float): Part of the training over which the rate rises from nothing to all. Defaults to 0.5.
        random (tuple[float, float], optional): In training, draw the part of the rate anew for each batch from this
            range, so that one model serves many rates.
        aux_weight (float): Weight of the auxiliary losses, which are summed. Defaults to 1.
        ignore_index (int): Label of pixels without a class. Defaults to 255.

    Raises:
        ValueError: For a bad argument, in one line.
    """

    trainable = True
    paper = 'Token Cropr: Faster ViTs for Quite a Few Tasks, CVPR 2025, 2412.00965'
    identity_example = dict(keep=1.0, num_classes=3, queries=2)
    examples = (
        dict(keep=0.7, num_classes=3, queries=2),
        dict(keep=0.4, num_classes=3, queries=(4, 3), multiple=4),
        dict(keep=0.2, num_classes=3, target='image', restore='scatter'),
    )

    def __init__(
        self,
        keep: float | Sequence[float] | None = None,
        r: int | Sequence[int] | None = None,
        layers: Sequence[int] | None = None,
        num_classes: int | None = None,
        target: str = 'patches',
        rare_classes: Sequence[int] | None = None,
        queries: int | tuple[int, int] | None = None,
        norm: bool = False,
        restore: str = 'llf',
        selector: str = 'cropr',
        multiple: int = 1,
        curriculum: float = 0.5,
        random: tuple[float, float] | None = None,
        aux_weight: float = 1.0,
        ignore_index: int = 255,
    ):
        super().__init__()
        check_rates(keep, r)
        self.keep, self.r, self.layers = keep, r, layers
        self.selector = check_choice('selector', selector, ('cropr', 'random', 'variance', 'attention'))
        self.trainable, self.needs_keys = selector == 'cropr', selector == 'attention'
        self.num_classes = num_classes
        if self.trainable or num_classes is not None:
            self.num_classes = check_int('num_classes', num_classes, 1, 2**16)
        self.target = check_choice('target', target, tuple(TARGETS))
        self.rare_classes = self.check_rare(rare_classes)
        sides = queries if queries is not None else TARGETS[target][1]
        pair = check_list('queries', sides, 2) if isinstance(sides, (list, tuple)) else [sides, sides]
        #: Grid of the queries ``(h, w)``.
        self.shape = check_int('queries', pair[0], 1, 256), check_int('queries', pair[1], 1, 256)
        self.norm = check_flag('norm', norm)
        self.restore = check_choice('restore', restore, ('llf', 'scatter'))
        self.multiple = check_int('multiple', multiple, 1)
        self.curriculum = check_number('curriculum', curriculum, 0, 1)
        self.random = None
        if random is not None:
            low, high = (check_number('random', part, 0, 1) for part in check_list('random', random, 2))
            if low > high:
                raise ValueError(f'random={random!r} must be two parts of the rate, the smaller first.')
            self.random = (low, high)
        if self.random is not None:
            self.varies = f'draws its rate (random={random!r})'
        elif self.curriculum:
            self.varies = f'prunes more and more (curriculum={curriculum:g})'
        elif selector == 'random':
            self.varies = "draws its tokens (selector='random')"
        self.aux_weight = check_number('aux_weight', aux_weight, 0)
        self.ignore_index = check_int('ignore_index', ignore_index)

    # ------------------------------------------------------------------ checks
    def check_rare(self, classes: Sequence[int] | None) -> list[int]:
        """Returns the rare classes; refuses those that no label map can hold."""
        if classes is None:
            return []
        if self.target != 'patches' or self.num_classes is None:
            raise ValueError(f"rare_classes={classes!r} needs target='patches' and num_classes; leave it out.")
        listed = check_list('rare_classes', classes)
        return [check_int('rare_classes', kind, 0, self.num_classes - 1) for kind in listed]

    def refuses(self, host: HostInfo) -> str:
        if self.selector == 'attention' and not (host.num_prefix and hasattr(host.host, 'class_query')):
            return (
                "with selector='attention' needs a class token whose attention is softmax(q·k/√d), without biases or "
                "rotations; use selector='variance', or a plain ViT with a class token, such as mmtoken.TokenDINOv2"
            )
        return super().refuses(host)

    def bind(self, host: HostInfo) -> None:
        layers = blocks_that_prune(self.layers, host, self.restore == 'llf')
        self.schedule = Schedule(self.keep, self.r, layers, self.multiple)
        self.blocks, self.last, self.info = frozenset(layers), host.depth - 1, host
        modules = {}
        if self.trainable:
            number = self.shape[0] * self.shape[1]
            outputs = cast(int, self.num_classes) + (self.target == 'tokens')  # one more for the background
            modules = {str(i): CroprModule(host.stage_of(i).embed_dims, number, outputs, self.norm) for i in layers}
        self.modules_by_block = nn.ModuleDict(modules)

    def bind_model(self, model: nn.Module) -> dict[str, str]:
        parts = [part for name, part in model.named_modules() if not name.startswith('backbone')]
        numbers = {part.num_classes for part in parts if isinstance(getattr(part, 'num_classes', None), int)}
        if self.trainable and numbers and self.num_classes not in numbers:
            raise ValueError(
                f"reducer.num_classes={self.num_classes} is not that of the model's heads; set it to {max(numbers)}."
            )
        return {}

    def search_space(self, host: HostInfo) -> dict[str, tuple | list]:
        return dict(keep=(0.1, 1.0), r=[None])

    # ------------------------------------------------------------------ the pass
    def rate(self) -> float:
        """Returns the part of the schedule's rate to prune at now: in testing all of it."""
        if not self.training:
            return 1.0
        rate = min(self.progress / self.curriculum, 1.0) if self.curriculum else 1.0
        if self.random is not None:
            low, high = self.random
            rate *= low + (high - low) * float(torch.rand(()))
        return rate

    def before(self, state: TokenState, i: int) -> None:
        if self not in state.aux:
            state.aux[self] = Pass(self.rate(), state.grid)
        if i == self.last and self.restore == 'llf':
            state.rejoin(self)
        if i in self.blocks and self.selector == 'attention':
            state.aux[self].query = class_query(self.info, state, i)

    def after(self, state: TokenState, i: int) -> None:
        if i not in self.blocks:
            return
        state.check_dense(self)
        record, prefix = state.aux[self], state.num_prefix
        if self.training and self.trainable:
            padding = None if state.padding is None else F.pad(state.padding, (prefix, 0))
            record.logits[i] = self.modules_by_block[str(i)](state.x, padding)
        n = state.x.shape[1] - prefix
        record.left = self.schedule.number(n, prefix, i, record.rate, record.left)
        k = record.left[0]
        if k == n:
            return
        scores = self.scores(state, i).expand(state.x.shape[0], -1)
        if state.padding is not None:
            scores = scores.float().masked_fill(state.padding, -torch.inf)
        # A stable sort settles ties by place on every device.
        state.keep(scores.argsort(dim=1, descending=True, stable=True)[:, :k].sort(dim=1).values, self)

    def scores(self, state: TokenState, i: int) -> Tensor:
        """Returns how much each patch token matters ``(B or 1, n)``; those with more go on."""
        if self.selector == 'random':
            return random_scores(state, i, self.training)
        if self.selector == 'variance':
            return variance_scores(state)
        if self.selector == 'attention':
            return attention_scores(state.aux[self].query, cast(Tensor, state.keys), state)
        return cast(CroprModule, self.modules_by_block[str(i)]).score(state.patches)

    # ------------------------------------------------------------------ around the pass
    def losses(self, state: TokenState, targets: list | None = None) -> dict[str, Tensor]:
        """Returns the loss of each auxiliary head by block; their sum is added to that of the model.

        Raises:
            ValueError: If the annotations lack what the heads learn from.
        """
        if self not in state.aux or not state.aux[self].logits:
            return {}
        logits, (sources, _) = state.aux[self].logits, TARGETS[self.target]
        if not targets or not all(any(source in target for source in sources) for target in targets):
            raise ValueError(
                f'reducer.target={self.target!r} learns from {" or ".join(sources)}, which the batch lacks; load these '
                "annotations, or set another target: 'patches' for segmentation, 'image' for detection."
            )
        goal = self.goal(state, targets)
        found = {}
        for i, one in logits.items():
            if self.target == 'image':
                loss = F.binary_cross_entropy_with_logits(one.mean(1).float(), goal)
            else:
                loss = F.cross_entropy(
                    one.transpose(1, 2).float(), goal, ignore_index=self.ignore_index, reduction='sum'
                )
                loss = loss / (goal != self.ignore_index).sum().clamp(min=1)
            found[f'loss_block{i}'] = self.aux_weight * loss
        return found

    def goal(self, state: TokenState, targets: list[Any]) -> Tensor:
        """Returns what the heads are to predict: ``(B, queries)``, int64, or ``(B, classes)``, fp32."""
        device, classes = state.x.device, cast(int, self.num_classes)
        if self.target == 'image':
            return image_labels(targets, classes, device)
        height, width = (side * self.info.host.patch_size for side in state.aux[self].grid)
        if self.target == 'tokens':
            labels = instance_labels(targets, self.shape, (height, width), classes, self.ignore_index, device)
            return labels.flatten(1)
        span = (0, 0) if self.info.host.fit == 'resize' else (height, width)  # a stretched map covers the picture
        return patch_labels(targets, self.shape, span, self.ignore_index, self.rare_classes).to(device).flatten(1)

    def switch_to_deploy(self) -> None:
        for module in self.modules_by_block.values():
            cast(CroprModule, module).fold()

    def closed_form(self, host: HostInfo, grid: tuple[int, int], state: TokenState | None = None) -> Cost:
        n, prefix, reduce, tokens = grid[0] * grid[1], host.num_prefix, 0, []
        full, left = n, (0, 0.0)
        for i in range(host.depth):
            if i == self.last and self.restore == 'llf':
                n = full
            tokens.append(n)
            if i not in self.blocks:
                continue
            if self.selector == 'attention':
                reduce += host.embed_dims**2  # the query of the class token
            left = self.schedule.number(n, prefix, i, last=left)
            if left[0] < n:
                reduce += dict(cropr=n, attention=n + prefix).get(self.selector, 0) * host.embed_dims
            n = left[0]
        return Cost(tokens, tokens, reduce)
