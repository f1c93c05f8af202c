"""Broken methods and hosts, as a pytest plugin (``-p mutants``): the contract catches each."""

from dataclasses import replace

import torch
from newcomer_hosts import Plain, Pyramid
from newcomers import Hardest, Runs

from mmtoken.core import REDUCERS, Cost, Reducer, TokenHost
from mmtoken.core.host import to_map
from mmtoken.hosts.vit import TokenVisionTransformer
from mmtoken.registry import MODELS


# ---------------------------------------------------------------------- methods
@REDUCERS.register_module()
class Leaky(Runs):
    """An image's tokens depend on its batch mates."""

    def before(self, state, i):
        if i == self.layer:
            state.x = state.x + state.x.mean((0, 1))
        super().before(state, i)


@REDUCERS.register_module()
class Careless(Runs):
    """What it says it can leave alone comes back changed, and the first prefix token is lost."""

    def before(self, state, i):
        if i == self.layer:
            state.x = state.x.flip(1)
        super().before(state, i)


@REDUCERS.register_module()
class Wasteful(Runs):
    """Its closed form forgets the run at the end that is shorter."""

    def closed_form(self, host, grid, state=None):
        n = grid[0] * grid[1]
        return Cost([n] * host.depth, [n if i < self.layer else n // self.length for i in range(host.depth)])


@REDUCERS.register_module()
class Undeployable(Hardest):
    """Drops what it still needs."""

    def switch_to_deploy(self):
        self.scorer.weight.data.zero_()


class Bare(Reducer):
    """Brings nothing but one of what is owed; see below."""


for name in ('paper', 'identity_example', 'examples', 'closed_form'):
    owed = {key: vars(Runs)[key] for key in ('paper', 'identity_example', 'examples', 'closed_form') if key != name}
    REDUCERS.register_module(name=f'No_{name}')(type(f'No_{name}', (Bare,), owed))


# ---------------------------------------------------------------------- hosts
@MODELS.register_module()
class Flips(TokenVisionTransformer):
    """Its tokens lie in another order than it says."""

    def stem(self, inputs):
        state = super().stem(inputs)
        state.x = torch.cat([state.prefix, state.patches.flip(1)], dim=1)
        return state


@MODELS.register_module()
class Mixes(TokenVisionTransformer):
    """Batch mates see each other."""

    def mlp(self, block, x):
        x = super().mlp(block, x)
        return x + 0.1 * x.mean((0, 1))


@MODELS.register_module()
class Forgets(TokenVisionTransformer):
    """Gives out the tokens that are left."""

    def features(self, state, i):
        return to_map(state.patches, state.raster or (state.patches.shape[1], 1))


@MODELS.register_module()
class Weightless(TokenVisionTransformer):
    """A key counts the same for one patch and for many."""

    def attend(self, block, x, layout):
        return super().attend(block, x, replace(layout, proportional=False))


@MODELS.register_module()
class Renames(TokenVisionTransformer):
    """A second name for its blocks, which is found in no checkpoint."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.stages_ = self.layers


@MODELS.register_module()
class Hides(TokenVisionTransformer):
    """Has more parameters than the dense model when it gets a reducer."""

    def init_reducer(self, reducer, *more):
        super().init_reducer(reducer, *more)
        if self.reducer is not None:
            self.extra = torch.nn.Linear(1, 1)


@MODELS.register_module()
class Straight(Pyramid):
    """Never shifts its windows, so nothing crosses their borders."""

    def build(self, widths):
        super().build(widths)
        for block in self.blocks:
            block.shift = 0


@MODELS.register_module()
class Toyless(Plain):
    """Nobody can make a small one."""

    toy = TokenHost.toy
