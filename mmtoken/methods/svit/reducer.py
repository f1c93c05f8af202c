"""SViT: a gate before each block chooses the tokens that the block updates; the others keep their values."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtoken.core import REDUCERS, Cost, HostInfo, Layout, Reducer, TokenState
from mmtoken.core.arguments import check_flag, check_int, check_list, check_number

#: Parts of the tokens that the paper asks for in its three runs of gates.
PAPER = (0.7, 0.49, 0.343)


@dataclass
class Gates:
    """What the gates of one pass chose.

    Args:
        real (Tensor): Tokens that are not padding ``(B or 1, n)``, bool.
        chosen (list[Tensor]): For each gate that ran, the tokens that its block updates ``(B, n)``: bool; in training 1
            and 0 with the gradient of the gate.
        before (tuple, optional): In training, tokens ``(B, P+n, C)`` and layout before the running block.
    """

    real: Tensor
    chosen: list[Tensor] = field(default_factory=list)
    before: tuple[Tensor, Layout] | None = None


@REDUCERS.register_module()
class SViT(Reducer):
    """Lets each block update only the tokens that its gate chooses; the others wait, and may be chosen again later.

    Independent implementation of arXiv 2306.07050. Before each block but the first ones a gate of two layers looks at
    all tokens, also at those that waited. The chosen ones run through the block, alone; the others keep their values,
    so feature maps stay whole. Images differ in how many they need. In training the choice is drawn with Gumbel noise,
    hidden tokens are masked as keys, and the gradient goes straight through; in test mode nothing is drawn.

    Args:
        skip (int): Blocks at the start without a gate. Defaults to 3.
        keep (float | Sequence[float], optional): Part of the tokens that gates choose on average, which their loss asks
            for, in (0, 1]: one for all gates, for each, or for each of equally long runs of gates. By default 0.7, 0.49
            and 0.343 for the three thirds of the gates, as in the paper.
        threshold (float): Probability from which a token is chosen in test mode, in [0, 1]; 0 chooses all and runs no
            gate. Defaults to 0.5, the likelier of both choices.
        temperature (float): Of the Gumbel softmax. Defaults to 1.
        weight (float): Weight of the loss on the ratio. Defaults to 4.
        per_image (bool): Ask for ``keep`` in each image instead of on average over the batch. Defaults to False.

    Raises:
        ValueError: For a bad argument, in one line.
    """

    dynamic = True
    trainable = True
    reactivates = True
    paper = 'Revisiting Token Pruning for Object Detection and Instance Segmentation, WACV 2024, 2306.07050'
    identity_example = dict(skip=1, threshold=0.0)
    examples = (dict(skip=0, threshold=0.35), dict(skip=0), dict(skip=0, threshold=0.65, per_image=True))

    def __init__(
        self,
        skip: int = 3,
        keep: float | Sequence[float] | None = None,
        threshold: float = 0.5,
        temperature: float = 1.0,
        weight: float = 4.0,
        per_image: bool = False,
    ):
        super().__init__()
        self.skip = check_int('skip', skip, 0)
        parts = PAPER if keep is None else check_list('keep', keep) if isinstance(keep, (list, tuple)) else [keep]
        self.keep = [check_number('keep', part, 0, 1, above=True) for part in parts]
        self.divides = keep is not None
        self.threshold = check_number('threshold', threshold, 0, 1)
        self.temperature = check_number('temperature', temperature, 0, above=True)
        self.weight = check_number('weight', weight, 0)
        self.per_image = check_flag('per_image', per_image)

    # ------------------------------------------------------------------ checks
    def refuses(self, host: HostInfo) -> str:
        if len(host.stages) > 1:
            return (
                'gives the tokens that wait to later blocks, and a pyramid makes new ones of all at each stage; use a '
                'method such as mmtoken.ToMe, or a backbone of one stage'
            )
        return super().refuses(host)

    def bind(self, host: HostInfo) -> None:
        gates = host.depth - self.skip
        if gates < 1:
            raise ValueError(f'reducer.skip={self.skip} leaves none of the {host.depth} blocks a gate; lower it.')
        if self.divides and gates % len(self.keep):
            raise ValueError(
                f'reducer.keep={self.keep} has {len(self.keep)} entries for {gates} gates; give one for all, one for '
                'each, or as many as divide them into equal runs.'
            )
        self.targets = [self.keep[gate * len(self.keep) // gates] for gate in range(gates)]
        dims, hidden = host.embed_dims, max(1, host.embed_dims // 4)
        self.gates = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    norm=nn.LayerNorm(dims), narrow=nn.Linear(dims, hidden), act=nn.GELU(), choose=nn.Linear(hidden, 2)
                )
            )
            for _ in range(gates)
        )

    def search_space(self, host: HostInfo) -> dict[str, tuple | list]:
        return dict(threshold=(0.0, 0.9))

    # ------------------------------------------------------------------ the pass
    def before(self, state: TokenState, i: int) -> None:
        state.restore(self)
        if i < self.skip or (self.threshold == 0 and not self.training):
            return
        state.check_dense(self)
        if self not in state.aux:
            real = torch.ones_like(state.x[:1, state.num_prefix :, 0], dtype=torch.bool)
            state.aux[self] = Gates(real if state.padding is None else ~state.padding)
        record = state.aux[self]
        logits = self.gates[i - self.skip](state.patches).float()
        if not self.training:
            chosen = (logits.softmax(-1)[..., 0] >= self.threshold) & record.real
            state.select(chosen, self)
        else:
            chosen = F.gumbel_softmax(logits, self.temperature, hard=True)[..., 0] * record.real
            record.before = state.x, state.layout
            state.layout = state.layout.hiding(chosen < 0.5)
        record.chosen.append(chosen)

    def after(self, state: TokenState, i: int) -> None:
        record = state.aux.get(self)
        if record is None or record.before is None:
            return
        (x, state.layout), record.before = record.before, None
        if state.x.shape != x.shape:
            raise ValueError('reducer SViT: another method reduces tokens in its blocks; leave one of the two out.')
        chosen = F.pad(record.chosen[-1], (state.num_prefix, 0), value=1.0)[..., None].to(x.dtype)
        state.x = chosen * state.x + (1 - chosen) * x

    # ------------------------------------------------------------------ around the pass
    def losses(self, state: TokenState, targets: list | None = None) -> dict[str, Tensor]:
        """Returns the loss on the ratio: the mean over the gates of (part that it chose − part asked for)², weighed.

        The parts are those of real tokens: of the batch, or of each image with ``per_image``.
        """
        record = state.aux[self]
        dim = 1 if self.per_image else None
        real = record.real.expand(record.chosen[0].shape).sum(dim).clamp(min=1)
        parts = torch.stack([chosen.sum(dim) / real for chosen in record.chosen])  # (gates,) or (gates, B)
        asked = parts.new_tensor(self.targets).view(-1, *[1] * (parts.dim() - 1))
        return {'loss_ratio': self.weight * (parts - asked).square().mean(), 'chosen': parts.detach().mean()}

    def closed_form(self, host: HostInfo, grid: tuple[int, int], state: TokenState | None = None) -> Cost:
        full, dims = grid[0] * grid[1], host.embed_dims
        if self.threshold == 0:
            return Cost([full] * host.depth, [full] * host.depth)
        tokens = [full] * self.skip + [int(chosen.sum()) for chosen in self.kept(state).chosen]
        hidden = max(1, dims // 4)
        return Cost(tokens, tokens, reduce=len(self.gates) * full * hidden * (dims + 2))
