"""DToP: dynamic token pruning, which finalises the predictions of easy tokens early."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtoken.core import REDUCERS, HostInfo, Packing, TokenState
from mmtoken.core.arguments import check_choice, check_flag, check_int
from mmtoken.methods.early_exit import Attention, DecodeHead, EarlyExit, Exit, Exits, Kind, Map, Pointwise, kind_of

from .context import top_of_group


@REDUCERS.register_module()
class DToP(EarlyExit):
    """Finalises the prediction of a token once an exit head is sure of it, and prunes the token.

    Independent implementation of arXiv 2308.01045. At each exit the most confident tokens of each class stay as
    context. The others above the threshold leave, and their exit prediction is final
    (``mmtoken.TokenEncoderDecoder``). Decode heads read the features with which pruned tokens left; an
    ``ATMSingleHead`` runs on the active tokens, as in the paper. Pruning is on in training too: each exit head learns
    from its predictions of the active tokens and the final predictions of the others.

    Args:
        heads, exits, threshold, frozen: See :class:`mmtoken.methods.early_exit.EarlyExit`. Heads must not read
            neighbouring tokens.
        keep_per_class (int): k, tokens above the threshold that stay, of each class in each image. Defaults to 5.
        store (str): Output of an Attention-to-Mask head that is final: ``prob``, its scores, as in the paper; or
            ``logits``, its mask logits, which the class scores of the last head then weigh, as in the released code.
            Other heads store log-probabilities, up to a constant. Defaults to ``prob``.
        proportional (bool): Let context tokens stand for all easy tokens of their image and class in attention: the log
            of their number is added to the scores of the keys, as ToMe does (arXiv 2210.09461, eq. 1). Not in the
            paper. Defaults to False.
    """

    paper = 'Dynamic Token Pruning in Plain Vision Transformers for Semantic Segmentation, ICCV 2023, 2308.01045'
    finishes = 'DToP has final predictions of pruned tokens'
    _head = dict(type='mmseg.FCNHead', num_convs=0, channels=32, concat_input=False, num_classes=3)
    identity_example = dict(heads=_head, exits=(0, 2), threshold=1.0)
    lively_example = dict(threshold=0.0, keep_per_class=0)
    examples = (
        dict(heads=_head, exits=(0, 2), threshold=0.6),
        dict(heads=_head, exits=(0, 2), threshold=0.5, keep_per_class=2),
        dict(heads=_head, exits=(0, 2), threshold=0.0, keep_per_class=1, proportional=True),
    )

    def __init__(
        self,
        heads: dict | Sequence[dict] | None = None,
        exits: Sequence[int] | None = None,
        threshold: float | Sequence[float] = 0.95,
        keep_per_class: int = 5,
        store: str = 'prob',
        proportional: bool = False,
        frozen: bool = False,
    ):
        super().__init__(heads, exits, threshold, frozen)
        self.keep_per_class = check_int('keep_per_class', keep_per_class, 0)
        self.store = check_choice('store', store, ('prob', 'logits'))
        self.proportional = check_flag('proportional', proportional)

    def bind(self, host: HostInfo) -> None:
        super().bind(host)
        if self.store == 'logits' and all(point.kind is not Attention for point in self.points):
            raise ValueError(
                "reducer.store='logits' is about the mask logits of ATMSingleHead; the exit heads are "
                'others, leave it out.'
            )
        for point in self.points:
            if point.kind is Map:
                raise ValueError(
                    f'reducer.heads: {type(self.heads[point.number]).__name__} reads other tokens, of which DToP '
                    'removes some; take kernel_size=1 or ATMSingleHead, or the method mmtoken.DoViT.'
                )

    def bind_model(self, model: nn.Module) -> dict[str, str]:
        moved = super().bind_model(model)
        head = getattr(model, 'decode_head', None)
        if head is None:
            return moved
        attention = kind_of(head) is Attention
        if any((point.kind is Attention) != attention for point in self.points):
            raise ValueError(
                f'reducer.heads: {type(self.heads[0]).__name__} does not go with decode_head '
                f'{type(head).__name__}: all are ATMSingleHead or none is, scores and logits do not mix.'
            )
        if not attention:
            return moved
        taps: Sequence[int] = getattr(model.backbone, 'out_indices', ())
        last = isinstance(head.in_index, int) and taps[head.in_index] == self.depth - 1
        if not last or model.with_neck or head.deep_supervision:
            raise ValueError(
                'reducer DToP runs ATMSingleHead on the tokens of the last block: let its in_index '
                'point there, without a neck and without deep_supervision.'
            )
        return moved

    def predict(self, state: TokenState, record: Exits, packing: Packing, point: Exit) -> Tensor:
        head, kind, block = self.heads[point.number], point.kind, point.block
        if self.training and kind is Pointwise:
            # On all tokens, so that batch norms see whole images and every parameter has a gradient.
            tokens = self.restored(state, record, block).flatten(0, 1)
            logits, classes = kind.predict(head, tokens, Packing.even(record.batch, record.number, tokens.device))
            logits = logits[record.rows]
        else:
            logits, classes = kind.predict(head, self.active(state, block), packing)
        scores = kind.scores(logits, classes, packing)
        canvas = self.write(record, logits, scores, kind)
        if self.training:
            record.stages.append((point.number, kind.output(self.full_map(state, record, canvas), classes)))
        return scores

    def write(self, record: Exits, logits: Tensor, scores: Tensor, kind: type[Kind]) -> Tensor:
        """Puts the predictions of the active tokens onto the canvas and returns it.

        They are final for tokens that leave now; the next exit overwrites those of the others.
        """
        final = scores if kind is Attention and self.store == 'prob' and not self.training else logits
        if record.canvas is None:
            dtype = torch.promote_types(final.dtype, torch.float32)
            record.canvas = final.new_zeros(len(record.left), self.num_classes, dtype=dtype)
        record.canvas = record.canvas.index_copy(0, record.rows, final.to(record.canvas.dtype))
        return record.canvas

    def decide(self, state: TokenState, scores: Tensor, packing: Packing, point: Exit) -> tuple[Tensor, Tensor | None]:
        confidence, label = scores.max(-1)
        easy = confidence > point.threshold
        groups = len(packing) * self.num_classes
        group = torch.where(easy, packing.image * self.num_classes + label, groups)
        context = top_of_group(confidence, group, self.keep_per_class, groups)
        if not self.proportional:
            return easy & ~context, None
        sizes = state.sizes if state.packing is not None else state.sizes.expand(len(packing), -1).flatten()
        patches, stand_ins = (
            sizes.new_zeros(groups + 1).index_add(0, group, part) for part in (sizes, context.to(sizes.dtype))
        )
        return easy & ~context, torch.where(context, (patches / stand_ins.clamp(min=1))[group], sizes)

    def finish(self, state: TokenState, head: DecodeHead, feats: tuple, name: str) -> Any:
        """Joins the head's logits for active tokens and the final predictions of the others.

        If the head's map is finer than the raster, a pruned token's prediction fills its patch.

        Returns:
            Any: Logits ``(B, K, H, W)`` or a multiple of it; for an ``ATMSingleHead`` in training the arguments of its
            loss.
        """
        record = self.record(state) if name == 'decode' else None
        if record is None:
            return head.forward(feats)
        if kind_of(head) is Attention and (head.training or state.packing is not None):
            return self.finish_attention(state, record, head)
        logits = head.forward(feats)
        if not isinstance(logits, Tensor):
            raise ValueError(
                f'reducer DToP completes one map of logits, and decode_head {type(head).__name__} gives '
                'something else; use mmtoken.DoViT, or another head.'
            )
        if state.packing is None or record.canvas is None:  # no token has left
            return logits
        left = (record.left < len(self.exits)).to(logits.dtype)[:, None]
        share = self.full_map(state, record, left)
        final = self.full_map(state, record, record.canvas * left)
        coarse = logits if logits.shape[-2:] == final.shape[-2:] else F.adaptive_avg_pool2d(logits, state.grid)
        mixed = final + (1 - share) * coarse
        if coarse is logits:
            return mixed
        share = F.interpolate(share, logits.shape[-2:], mode='nearest')
        fine = F.interpolate(mixed, logits.shape[-2:], mode='bilinear', align_corners=head.align_corners)
        return share * fine + (1 - share) * logits

    def finish_attention(self, state: TokenState, record: Exits, head: DecodeHead) -> Any:
        """Runs the decoder of an ``ATMSingleHead`` as the last exit, on the active tokens only."""
        if head.training and not self.training:
            raise ValueError(
                'reducer.frozen=True keeps what ATMSingleHead predicts as scores, and its loss wants mask '
                'logits; train the exit heads too.'
            )
        packing = self.active_packing(state, record)
        logits, classes = Attention.predict(head, self.active(state, self.depth - 1), packing)
        canvas = self.write(record, logits, Attention.scores(logits, classes, packing), Attention)
        if self.store == 'logits' and not self.training:
            canvas = Attention.scores(canvas, classes, Packing.even(record.batch, record.number, canvas.device))
        maps = self.full_map(state, record, canvas)
        return Attention.output(maps, classes) if self.training else maps
