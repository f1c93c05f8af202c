"""DoViT: dynamic token-pass, which carries the features of easy tokens to the decode head."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmtoken.core import REDUCERS, HostInfo, Packing, TokenState
from mmtoken.core.arguments import check_int, check_number
from mmtoken.methods.early_exit import EarlyExit, Exit, Exits


@REDUCERS.register_module()
class DoViT(EarlyExit):
    """Lets tokens skip the rest of the backbone once an exit head is sure of them.

    Independent implementation of arXiv 2308.01944. A token that leaves keeps its features, and the decode head, any of
    mmseg, reads the full map. In training the exit heads predict every token, and the threshold falls from 1, at which
    none leaves, to its value.

    Args:
        heads, exits, threshold, frozen: See :class:`mmtoken.methods.early_exit.EarlyExit`. Heads that read neighbouring
            tokens run on the restored map.
        low (float): Tokens whose largest probability is below ``low`` leave too, as hopeless. Defaults to 0: none.
        anneal_iters (int, optional): Training iterations over which the threshold falls; None starts at its value.
        aggregate (float, optional): Once more than this part of an image's tokens has left, the class token becomes the
            average of itself and the mean of these tokens. None changes nothing.
    """

    paper = 'Dynamic Token-Pass Transformers for Semantic Segmentation, WACV 2024, 2308.01944'
    _head = dict(type='mmseg.FCNHead', num_convs=0, channels=32, concat_input=False, num_classes=3)
    identity_example = dict(heads=_head, exits=(0, 2), threshold=1.0)
    lively_example = dict(threshold=0.0, low=0.0)
    examples = (
        dict(heads=_head, exits=(0, 2), threshold=0.9),
        dict(heads=_head, exits=(0, 2), threshold=0.8),
        dict(heads=_head, exits=(0, 2), threshold=(0.75, 0.7)),
    )

    def __init__(
        self,
        heads: dict | Sequence[dict] | None = None,
        exits: Sequence[int] | None = None,
        threshold: float | Sequence[float] = 0.95,
        low: float = 0.0,
        anneal_iters: int | None = None,
        aggregate: float | None = None,
        frozen: bool = False,
    ):
        super().__init__(heads, exits, threshold, frozen)
        lowest = min(threshold) if isinstance(threshold, Sequence) else threshold
        check_number('low', low, 0, 1)
        if low > lowest:
            raise ValueError(f'low={low!r} must lie between 0 and threshold={threshold}.')
        if anneal_iters is not None:
            check_int('anneal_iters', anneal_iters, 1)
        if aggregate is not None:
            check_number('aggregate', aggregate, 0, 1, below=True)
        if anneal_iters is not None and frozen:
            raise ValueError(
                f'anneal_iters={anneal_iters} anneals while exit heads are trained; leave it out with frozen=True.'
            )
        self.low, self.anneal_iters, self.aggregate = low, anneal_iters, aggregate

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs):
        state_dict.pop(f'{prefix}iteration', None)  # older checkpoints held what mmengine's loop tells now
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def bind(self, host: HostInfo) -> None:
        super().bind(host)
        if self.aggregate is not None and not host.num_prefix:
            raise ValueError(
                f'reducer.aggregate={self.aggregate} needs a class token to aggregate into; set '
                'with_cls_token=True, or leave it out.'
            )

    def decide(self, state: TokenState, scores: Tensor, packing: Packing, point: Exit) -> tuple[Tensor, None]:
        confidence = scores.amax(-1)
        return (confidence > self.limit(point)) | (confidence < self.low), None

    def limit(self, point: Exit) -> float:
        """Returns the threshold of an exit now: in training it falls from 1 over ``anneal_iters`` iterations."""
        if not self.training or self.anneal_iters is None:
            return point.threshold
        return 1 - min(self.iteration / self.anneal_iters, 1) * (1 - point.threshold)

    def settle(self, state: TokenState, record: Exits) -> None:
        if self.aggregate is None or state.packing is None:
            return
        gone = (record.left < len(self.exits)).view(record.batch, record.number, 1).float()
        tokens = state.dense(trail=state.trail[len(record.trail) :])
        mean = (tokens.float() * gone).sum(1) / gone.sum(1).clamp(min=1)
        cls = torch.where(gone.mean(1) > self.aggregate, (state.cls + mean) / 2, state.cls)
        state.x = state.x.index_copy(0, state.packing.ends[:-1], cls.to(state.x.dtype))
