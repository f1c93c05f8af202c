"""Methods and hosts that come from outside, as a pytest plugin (``-p newcomers``): the contract holds them without an
edit. Hosts: :mod:`newcomer_hosts`.
"""

import newcomer_hosts  # noqa: F401
import torch
import torch.nn.functional as F
from torch import nn

from mmtoken.core import REDUCERS, Cost, Gather, Packing, Reducer
from mmtoken.core.arguments import check_layer
from mmtoken.methods.early_exit import EarlyExit


@REDUCERS.register_module()
class Runs(Reducer):
    """Static: runs of equally many tokens in raster order become their means, before one block."""

    paper = 'A toy'
    identity_example = dict(length=1)
    examples = (dict(length=2), dict(length=4))

    def __init__(self, length, layer=1):
        super().__init__()
        self.length, self.layer = length, layer

    def before(self, state, i):
        if i != self.layer or self.length == 1:
            return
        state.check_dense(self)
        x = state.patches
        index = torch.arange(x.shape[1], device=x.device) // self.length
        runs = torch.arange(-(-x.shape[1] // self.length), device=x.device)
        one_hot = (index[:, None] == runs).to(torch.float32)
        valid = torch.ones_like(x[..., 0]) if state.padding is None else (~state.padding).to(torch.float32)
        weight = one_hot * valid[..., None]  # (B, n, M)
        weight = (weight / weight.sum(1, keepdim=True).clamp(min=1)).transpose(1, 2).to(x.dtype)
        state.reduce(
            weight @ x,
            Gather(index[None]),
            coords=lambda centres: one_hot.t() @ centres / one_hot.sum(0)[:, None],
            sizes=one_hot.sum(0)[None],
            padding=None if state.padding is None else weight.sum(-1) == 0,
        )

    def closed_form(self, host, grid, state=None):
        n, asks = grid[0] * grid[1], host.position == 'relative'
        if self.length == 1:
            return Cost([n] * host.depth, [n] * host.depth)
        runs = -(-n // self.length)
        tokens = [n if i < self.layer else runs for i in range(host.depth)]
        return Cost(tokens, tokens, reduce=n * runs * (host.embed_dims + 2 * asks))


@REDUCERS.register_module()
class Loud(Reducer):
    """Dynamic: tokens that are shorter than a part of the image's mean length wait until the end."""

    dynamic = takes_ragged = True
    paper = 'A toy'
    identity_example = dict(part=0)
    examples = (dict(part=0.9), dict(part=1.0), dict(part=1.05))

    def __init__(self, part, layer=1):
        super().__init__()
        self.part, self.layer = part, layer

    def before(self, state, i):
        if i != self.layer or self.part == 0:
            return
        patches = state.patches
        if state.packing is None:
            packing = Packing.even(*patches.shape[:2], patches.device)
        else:
            packing = state.packing.without(state.num_prefix)
        length = patches.flatten(0, -2).float().norm(dim=-1)
        valid = torch.ones_like(length) if state.padding is None else (~state.padding).flatten().float()
        total, number = (
            length.new_zeros(len(packing)).index_add(0, packing.image, one) for one in (length * valid, valid)
        )
        keep = (length > self.part * (total / number)[packing.image]) & valid.bool()
        state.select(keep.view(patches.shape[:-1]), self)

    def closed_form(self, host, grid, state=None):
        tokens = [count // len(state.prefix) - host.num_prefix for count in state.counts]
        return Cost([tokens[0], *tokens[1:]], tokens)


@REDUCERS.register_module()
class Hardest(Reducer):
    """Static: the part of the tokens that a scorer finds hardest goes on from one block; the others wait.

    An auxiliary head predicts the class of each token, weighted by its score, so that the scorer learns with it; once
    trained, the head is dropped.
    """

    trainable = True
    paper = 'A toy'
    identity_example = dict(part=1.0)
    examples = (dict(part=0.75), dict(part=0.5), dict(part=0.3))

    def __init__(self, part, layer=1, num_classes=3):
        super().__init__()
        self.part, self.layer, self.num_classes = part, layer, num_classes

    def bind(self, host):
        check_layer('reducer.layer', self.layer, host.depth)
        dims = host.stage_of(self.layer).embed_dims
        self.scorer, self.head = nn.Linear(dims, 1), nn.Linear(dims, self.num_classes)

    def search_space(self, host):
        return dict(part=(0.2, 1.0))

    def number(self, n):
        return max(round(self.part * n), 1)

    def before(self, state, i):
        if i != self.layer:
            return
        state.check_dense(self)
        x = state.patches
        scores = self.scorer(x)[..., 0]
        if self.training:
            logits = self.head(x) * scores.sigmoid()[..., None]
            state.aux[self] = state.dense(logits).transpose(1, 2).unflatten(2, state.grid)
        k = self.number(x.shape[1])
        if k == x.shape[1]:
            return
        if state.padding is not None:
            scores = scores.masked_fill(state.padding, -torch.inf)
        state.keep(scores.topk(k, dim=1).indices.sort(1).values, self)

    def losses(self, state, targets=None):
        if self not in state.aux:
            return {}
        logits = state.aux[self]
        labels = torch.stack([target.gt_sem_seg.data for target in targets]).float()
        labels = F.interpolate(labels, logits.shape[-2:], mode='nearest')[:, 0].long()
        return dict(loss_hardest=F.cross_entropy(logits, labels))

    def switch_to_deploy(self):
        self.head = None

    def closed_form(self, host, grid, state=None):
        n = grid[0] * grid[1]
        tokens = [n if i < self.layer else self.number(n) for i in range(host.depth)]
        return Cost(tokens, tokens, reduce=n * host.stage_of(self.layer).embed_dims)


@REDUCERS.register_module()
class Margin(EarlyExit):
    """An early exit of its own: a token leaves once its two likeliest classes lie further apart than the threshold."""

    paper = 'A toy'
    _head = dict(type='mmseg.FCNHead', num_convs=0, channels=32, concat_input=False, num_classes=3)
    identity_example = dict(heads=_head, exits=(0, 2), threshold=1.0)
    lively_example = dict(threshold=0.0)
    examples = (
        dict(heads=_head, exits=(0, 2), threshold=0.85),
        dict(heads=_head, exits=(0, 2), threshold=0.7),
        dict(heads=_head, exits=(0, 2), threshold=0.5),
    )

    def decide(self, state, scores, packing, point):
        first, second = scores.topk(2, dim=-1).values.unbind(-1)
        return first - second > point.threshold, None
