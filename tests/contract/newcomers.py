"""Methods that come from outside, as a pytest plugin (``-p newcomers``): the contract holds them without an edit."""

import re
from pathlib import Path

import torch

from mmtoken.core import Gather, Reducer
from mmtoken.registry import REDUCERS


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
        x = state.patches
        index = torch.arange(x.shape[1], device=x.device) // self.length
        runs = torch.arange(-(-x.shape[1] // self.length), device=x.device)
        one_hot = (index[:, None] == runs).to(torch.float32)
        valid = torch.ones_like(x[..., 0]) if state.padding is None else (~state.padding).to(torch.float32)
        weight = one_hot * valid[..., None]  # (B, n, M)
        weight = (weight / weight.sum(1, keepdim=True).clamp(min=1)).transpose(1, 2).to(x.dtype)
        state.reduce(
            weight @ x + self.leak(x),
            Gather(index[None]),
            coords=lambda centres: one_hot.t() @ centres / one_hot.sum(0)[:, None],
            sizes=one_hot.sum(0)[None],
            padding=None if state.padding is None else weight.sum(-1) == 0,
        )

    def leak(self, x):
        return 0


@REDUCERS.register_module()
class Loud(Reducer):
    """Dynamic: tokens that are shorter than a part of the image's mean length wait until the end."""

    dynamic = True
    paper = 'A toy'
    identity_example = dict(part=0)
    examples = (dict(part=0.9), dict(part=1.0), dict(part=1.05))

    def __init__(self, part, layer=1):
        super().__init__()
        self.part, self.layer = part, layer

    def before(self, state, i):
        if i != self.layer or self.part == 0:
            return
        length = state.patches.float().norm(dim=-1)
        valid = torch.ones_like(length) if state.padding is None else (~state.padding).float()
        mean = (length * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True)
        state.select((length > self.part * mean) & valid.bool())


@REDUCERS.register_module()
class Leaky(Runs):
    """Broken: an image's tokens depend on its batch mates."""

    def leak(self, x):
        return x.mean((0, 1))


@REDUCERS.register_module()
class Careless(Runs):
    """Broken: what it says it can leave alone comes back changed, and the first prefix token is lost."""

    def before(self, state, i):
        if i == self.layer:
            state.x = state.x.flip(1)
        super().before(state, i)


# The method that the README shows how to add, as it stands there.
_readme = (Path(__file__).parents[2] / 'README.md').read_text(encoding='utf-8')
exec(next(block for block in re.findall(r'```python\n(.*?)```', _readme, re.S) if 'class MaxPool' in block))
