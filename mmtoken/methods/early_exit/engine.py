"""Early exit: tokens leave the backbone once an exit head is sure of them. DToP and DoViT share this engine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmtoken.core import Cost, HostInfo, Packing, Reducer, TokenState
from mmtoken.core.arguments import check_blocks, check_flag, check_list, check_number

from . import heads as kinds


@dataclass(frozen=True)
class Exit:
    """Settings of one exit.

    Args:
        number (int): Index of the exit, and of its head in :attr:`EarlyExit.heads`.
        block (int): Block after which the head runs.
        kind (type): What the head reads, see :mod:`.heads`.
        threshold (float): Probability above which a token may leave.
    """

    number: int
    block: int
    kind: type[kinds.Kind]
    threshold: float


@dataclass
class Exits:
    """Record of the exits of one pass.

    Args:
        batch (int): B.
        number (int): n, patch tokens of each image at the first exit.
        raster (tuple[int, int] | None): ``(h, w)`` if these lie on a raster.
        trail (list): Reductions before the first exit.
        rows (Tensor): Active tokens as indices among the ``B·n`` of the first exit, int64, in packed order.
        left (Tensor): Exit at which each of the ``B·n`` tokens left; the number of exits for those that did not.
        own (int): Number of reductions that the exits have made.
        canvas (Tensor, optional): Predictions ``(B·n, K)``, fp32; final for tokens that have left.
        stages (list): In training, number of each exit and the arguments of its head's loss.
    """

    batch: int
    number: int
    raster: tuple[int, int] | None
    trail: list
    rows: Tensor
    left: Tensor
    own: int = 0
    canvas: Tensor | None = None
    stages: list[tuple[int, Any]] = field(default_factory=list)


class EarlyExit(Reducer):
    """Base of methods whose tokens leave at exits; the tokens that stay are packed.

    After each block of ``exits`` an exit head predicts the active tokens. A token whose largest class probability is
    above the threshold may leave, as the method's :meth:`decide` says. A token that left never comes back. Each image
    is decided by itself, without gradient. Each exit costs one GPU→CPU sync.

    Args:
        heads (dict | Sequence[dict], optional): Config of the exit heads: a decode head of mmseg or mmtoken, one for
            all exits or a list with one for each. ``in_channels`` is set by the method. Without it, the auxiliary heads
            of a model of type ``mmtoken.TokenEncoderDecoder`` are taken, with their weights.
        exits (Sequence[int], optional): Blocks after which the heads run, from 0, rising, without the last block. By
            default those that the ``in_index`` of the heads names; if given, only the heads of these blocks are taken.
        threshold (float | Sequence[float]): Probability above which a token may leave, in [0, 1], for all exits or for
            each. At 1 none leaves, and in test mode the head does not run.
        frozen (bool): Keep the exit heads as they were loaded, without losses. If the backbone is frozen too, features
            depend on the picture alone and can be cached while a decode head is trained. Defaults to False.
    """

    dynamic = True
    trainable = True
    auxiliary = 'heads'

    def __init__(
        self,
        heads: dict | Sequence[dict] | None = None,
        exits: Sequence[int] | None = None,
        threshold: float | Sequence[float] = 0.95,
        frozen: bool = False,
    ):
        super().__init__()
        if isinstance(exits, int):
            raise ValueError(f'exits={exits} must be a list of blocks, such as [{exits}].')
        thresholds = threshold if isinstance(threshold, (list, tuple)) else [threshold]
        if not thresholds:
            raise ValueError(f'threshold={threshold!r} must be a probability in [0, 1], or a list of them.')
        for one in thresholds:
            check_number('threshold', one, 0, 1)
        if exits is not None:
            check_blocks('exits', exits)
        check_flag('frozen', frozen)
        if heads is not None and not (isinstance(heads, dict) and heads):
            check_list('heads', heads)
        for cfg in [heads] if isinstance(heads, dict) else heads or ():
            if not isinstance(cfg, dict) or 'type' not in cfg:
                raise ValueError(
                    f"heads={heads!r} must be the config of a decode head, such as dict(type='mmseg.FCNHead', …), or a "
                    'list of them.'
                )
        self.head_cfgs = heads
        #: Index among the configs of each head, if heads were chosen by block.
        self.sources: list[int] | None = None
        #: Blocks after which the heads look; empty until :meth:`bind` finds them, if the config leaves them out.
        self.exits: tuple[int, ...] = tuple(exits or ())
        self.threshold = threshold
        self.frozen = frozen
        self.trainable = not frozen

    # ------------------------------------------------------------------ checks
    def refuses(self, host: HostInfo) -> str:
        if len(host.stages) > 1:
            return (
                'lets tokens leave for good, and a pyramid makes new ones of all at each stage; use a method such as '
                'mmtoken.ToMe, or a backbone of one stage'
            )
        return super().refuses(host)

    def bind(self, host: HostInfo) -> None:
        cfgs = self.head_cfgs
        if not cfgs:
            raise ValueError(
                'reducer.heads is missing: give the config of a decode head, or use model.type='
                "'mmtoken.TokenEncoderDecoder' with auxiliary_head and without a neck, which become the "
                'exit heads.'
            )
        if not self.exits and (isinstance(cfgs, dict) or not any('in_index' in cfg for cfg in cfgs)):
            raise ValueError('reducer.exits is missing: give the blocks after which the heads look, such as [5, 7].')
        if isinstance(cfgs, dict):
            cfgs = [cfgs] * len(self.exits)
        else:
            self.sources = list(range(len(cfgs)))
        if self.sources and any('in_index' in cfg for cfg in cfgs):
            cfgs = self.choose(cfgs, host)
        if len(self.exits) != len(cfgs):
            raise ValueError(
                f'reducer.heads has {len(cfgs)} entries for {len(self.exits)} exits; give one for each or one for all.'
            )
        if not self.exits or list(self.exits) != sorted(set(self.exits)):
            raise ValueError(f'reducer.exits={list(self.exits)} must name at least one block, in rising order.')
        check_blocks('reducer.exits', self.exits, host.depth - 1)
        thresholds = self.threshold if isinstance(self.threshold, (list, tuple)) else [self.threshold]
        if len(thresholds) not in (1, len(self.exits)):
            raise ValueError(
                f'reducer.threshold has {len(thresholds)} entries for {len(self.exits)} exits; give one '
                'for each, or one for all.'
            )
        thresholds = list(thresholds) * (len(self.exits) // len(thresholds))
        heads = [kinds.build_head(cfg, host.embed_dims) for cfg in cfgs]
        self.heads = nn.ModuleList(heads)
        self.points = [
            Exit(m, block, kinds.kind_of(head), threshold)
            for m, (block, head, threshold) in enumerate(zip(self.exits, heads, thresholds))
        ]
        self.heads.requires_grad_(not self.frozen)
        classes: set[int] = {head.out_channels for head in heads}
        if len(classes) > 1:
            raise ValueError(f'reducer.heads predict different numbers of classes: {sorted(classes)}.')
        self.depth, self.num_classes = host.depth, classes.pop()

    def choose(self, cfgs: Sequence[dict], host: HostInfo) -> list[dict]:
        """Returns the configs of the heads of the chosen blocks, in their order; sets ``exits`` and ``sources``."""
        taps = []
        for cfg in cfgs:
            index = cfg.get('in_index', -1)
            if not isinstance(index, int) or not -len(host.out_indices) <= index < len(host.out_indices):
                raise ValueError(
                    f'reducer.heads: in_index={index} of {cfg.get("type")} is not one of the '
                    f'{len(host.out_indices)} outputs of the backbone.'
                )
            taps.append(host.out_indices[index])
        if not self.exits:
            self.exits = tuple(sorted(taps))
        missing = [block for block in self.exits if block not in taps]
        if missing:
            raise ValueError(
                f'reducer.exits={list(self.exits)}: no head was made for block {missing[0]}; there are '
                f'heads for {sorted(set(taps))}.'
            )
        self.sources = [taps.index(block) for block in self.exits]
        return [cfgs[source] for source in self.sources]

    def bind_model(self, model: nn.Module) -> dict[str, str]:
        head = getattr(model, 'decode_head', None)
        classes = getattr(head, 'out_channels', None)
        if classes is not None and classes != self.num_classes:
            raise ValueError(
                f'reducer.heads predict {self.num_classes} classes and decode_head {classes}; give both '
                'the same num_classes.'
            )
        return {f'auxiliary_head.{source}.': f'heads.{m}.' for m, source in enumerate(self.sources or ())}

    def closed_form(self, host: HostInfo, grid: tuple[int, int], state: TokenState | None = None) -> Cost:
        left = self.kept(state).left.tolist()
        last = [*self.exits, host.depth]
        tokens = [sum(last[m] >= i for m in left) for i in range(host.depth)]
        asked = [sum(m >= point.number for m in left) for point in self.points if point.threshold < 1]
        weights = sum(p.numel() for p in self.heads[0].parameters() if p.dim() > 1)  # of a head of 1×1 convolutions
        return Cost(tokens, tokens, reduce=sum(asked) * weights)

    def train(self, mode: bool = True):
        """Sets training mode; frozen exit heads stay in test mode."""
        return super().train(mode and not self.frozen)

    def extra_repr(self) -> str:
        return f'exits={self.exits}, threshold={self.threshold}'

    def search_space(self, host):
        return dict(threshold=((0.5, 1.0),) * len(self.exits))

    # ------------------------------------------------------------------ exits
    def before(self, state: TokenState, i: int) -> None:
        self.record(state)

    def after(self, state: TokenState, i: int) -> None:
        if i not in self.exits:
            return
        point = self.points[self.exits.index(i)]
        record = self.record(state)
        if record is None:
            record = state.aux[self] = self.open_record(state)
        if point.threshold == 1 and not self.training:
            return
        packing = self.active_packing(state, record)
        scores = self.predict(state, record, packing, point)
        with torch.no_grad():
            padding = None if state.padding is None else state.padding.flatten()
            if padding is not None:  # padding must not become context
                scores = scores.masked_fill(padding[:, None], 0)
            leave, sizes = self.decide(state, scores, packing, point)
            stay = ~leave
            if padding is not None and point.threshold < 1:  # padding leaves at once
                stay = stay & ~padding
        if state.packing is None:
            shape = (record.batch, record.number)
            kept = state.select(stay.view(shape), self, None if sizes is None else sizes.view(shape))
        else:
            kept = state.select(stay, self, sizes)
        if kept is not None:
            record.own += 1
            record.left = record.left.index_copy(0, record.rows, torch.where(stay, len(self.exits), point.number))
            record.rows = record.rows[kept]
        if state.packing is not None:
            self.settle(state, record)

    def record(self, state: TokenState) -> Exits | None:
        """Returns the record of a pass; None before the first exit.

        Raises:
            ValueError: If another method has changed the tokens since then.
        """
        record = state.aux.get(self)
        if record is not None:
            own = sum(reduction.owner is self for reduction in state.trail)
            if own != record.own or len(state.trail) != len(record.trail) + own:
                raise ValueError(
                    f'reducer {type(self).__name__}: another method reduces or restores tokens after the '
                    'first exit; let it end before that, or leave one of the two out.'
                )
        return record

    def open_record(self, state: TokenState) -> Exits:
        """Makes the record of a pass, before its first exit."""
        state.check_dense(self)
        batch, number = state.patches.shape[:2]
        rows = torch.arange(batch * number, device=state.x.device)
        return Exits(batch, number, state.raster, list(state.trail), rows, torch.full_like(rows, len(self.exits)))

    def predict(self, state: TokenState, record: Exits, packing: Packing, point: Exit) -> Tensor:
        """Runs the head of an exit.

        By default a pointwise head runs on the active tokens in test mode. Other heads, and all heads in training, run
        on all tokens.

        Args:
            state (TokenState): State after the block of the exit.
            record (Exits): Exits before; in training it gets the arguments of the loss.
            packing (Packing): Rows of each image among the active patch tokens.
            point (Exit): The exit.

        Returns:
            Tensor: Class probabilities of the active patch tokens ``(Σn, K)``, at least fp32.

        Raises:
            ValueError: If the head reads neighbouring tokens and the tokens lie on no raster.
        """
        head, kind, block = self.heads[point.number], point.kind, point.block
        if kind is kinds.Pointwise and not self.training:
            logits, classes = kind.predict(head, self.active(state, block), packing)
            return kind.scores(logits, classes, packing)
        tokens = self.restored(state, record, block)
        if kind is kinds.Map:
            if record.raster is None:
                raise ValueError(
                    f'reducer.heads: {type(head).__name__} reads neighbouring tokens, and a method before '
                    f'{type(self).__name__} left them on no raster; take kernel_size=1.'
                )
            output, scores = kinds.Map.predict_map(head, tokens.transpose(1, 2).unflatten(2, record.raster))
        else:
            whole = Packing.even(record.batch, record.number, tokens.device)
            logits, classes = kind.predict(head, tokens.flatten(0, 1), whole)
            scores = kind.scores(logits, classes, whole)
            output = kind.output(self.full_map(state, record, logits), classes)
        if self.training:
            record.stages.append((point.number, output))
        return scores[record.rows]

    def decide(self, state: TokenState, scores: Tensor, packing: Packing, point: Exit) -> tuple[Tensor, Tensor | None]:
        """Decides which tokens leave at an exit.

        Args:
            state (TokenState): State after the block of the exit.
            scores (Tensor): Class probabilities of the active patch tokens ``(Σn, K)``.
            packing (Packing): Rows of each image among them.
            point (Exit): The exit.

        Returns:
            tuple[Tensor, Tensor | None]: Tokens that leave ``(Σn,)``, bool; and the sizes of the tokens from here on
            ``(Σn,)``, fp32, or None if they stay as they are.
        """
        raise NotImplementedError

    def settle(self, state: TokenState, record: Exits) -> None:
        """Is called after each exit, once tokens of the batch have left."""

    # ------------------------------------------------------------------ what the methods share
    def active_packing(self, state: TokenState, record: Exits) -> Packing:
        """Returns the rows of each image among the active patch tokens."""
        if state.packing is None:
            return Packing.even(record.batch, record.number, state.x.device)
        return state.packing.without(state.num_prefix)

    def active(self, state: TokenState, block: int) -> Tensor:
        """Returns the active patch tokens after a block, with the output norm ``(Σn, C)``."""
        return state.out_norm(state.patches, block).flatten(0, -2)

    def restored(self, state: TokenState, record: Exits, block: int) -> Tensor:
        """Returns all tokens of the first exit after a block, with the output norm ``(B, n, C)``.

        Tokens that left keep the values with which they left.
        """
        return state.out_norm(state.dense(trail=state.trail[len(record.trail) :]), block)

    def full_map(self, state: TokenState, record: Exits, rows: Tensor) -> Tensor:
        """Returns values of all tokens of the first exit ``(B·n, K)`` as a map on the full grid ``(B, K, H, W)``."""
        full = state.dense(rows.unflatten(0, (record.batch, -1)), trail=record.trail)
        return full.transpose(1, 2).unflatten(2, state.grid)

    def losses(self, state: TokenState, targets: list | None = None) -> dict[str, Tensor]:
        """Returns the losses of the exit heads (deep supervision), named by their blocks.

        Args:
            state (TokenState): State after a training pass.
            targets (list[SegDataSample]): With ``gt_sem_seg``.
        """
        losses = {}
        for m, output in state.aux[self].stages:
            for name, value in self.heads[m].loss_by_feat(output, targets).items():
                losses[f'exit{self.exits[m]}.{name}'] = value
        return losses
