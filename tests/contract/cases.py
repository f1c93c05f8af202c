"""The cases of the contract, and how they are run: what every method owes every host, and every host its models.

A method is found in the registry and brings its own arguments (``identity_example``, ``examples``), a host its
``toy()``, so new ones get all tests of this folder without an edit; ``test_newcomers.py`` proves it.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmtoken.core import Reducer, TokenHost
from mmtoken.registry import MODELS, REDUCERS
from mmtoken.testing import DEPTH, PATCH, SIDE, toy_hosts

REDUCERS.import_from_location()
METHODS = dict(sorted(REDUCERS.module_dict.items()))
HOSTS = toy_hosts()
SQUARE = (PATCH * SIDE, PATCH * SIDE)
#: Not square; odd in patches; no multiple of the patch.
SIZES = [SQUARE, (24, 40), (20, 36), (30, 37)]
TAPS = tuple(range(DEPTH))


@dataclass(frozen=True)
class Case:
    """A method on a host; ``args`` are those of one of its examples."""

    method: str
    host: str
    args: tuple = ()

    @property
    def type(self):
        return METHODS[self.method]

    @property
    def id(self):
        return '-'.join([self.method, self.host, *(f'{k}={v}' for k, v in self.args if not isinstance(v, dict))])

    @property
    def last(self):
        """With the example that reduces most."""
        return replace(self, args=tuple(self.type.examples[-1].items()))

    def config(self, args):
        return dict(type=f'mmtoken.{self.method}', **args)

    def dense(self, **kwargs):
        """The host without a method; shared by all tests."""
        return toy(self.host, **kwargs)

    def build(self, args=None, *others, **kwargs):
        """The host with the method, and with the dense host's weights; shared by all tests."""
        reducer = self.config(dict(self.args) if args is None else args)
        return toy(self.host, [*others, reducer] if others else reducer, **kwargs)

    def new(self, **kwargs):
        """Builds it anew, to be trained or changed."""
        return make(self.host, self.config(dict(self.args)), **kwargs)


def make(host, reducer=None, size=SQUARE, **kwargs):
    """Builds a toy host, with the same weights whatever the reducer; those of the reducer are always the same too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HOSTS[host](size=size, reducer=reducer, **kwargs)
    if reducer is not None:
        missing, unexpected = model.load_state_dict(toy(host, None, size, **kwargs).state_dict(), strict=False)
        assert all(key.startswith('reducer.') for key in missing) and not unexpected
        model.served = True  # what a method leaves to the model's head is tested with models
    return model


#: Toy hosts by what they are built from, for tests that leave them as they are: it takes longer to build than to run.
BUILT: dict[str, nn.Module] = {}
#: Half a megabyte each.
MANY = 600


def toy(host, reducer=None, size=SQUARE, **kwargs):
    """What :func:`make` gives, built once for all tests."""
    key = repr((host, reducer, MODELS.get(host).toy(size), kwargs))
    if key not in BUILT:
        if len(BUILT) >= MANY:
            BUILT.clear()
        BUILT[key] = make(host, reducer, size, **kwargs)
    return BUILT[key]


def lacks(method):
    """What a method's class does not bring, by name."""
    kind = METHODS[method]
    owed = ('paper', 'identity_example', 'examples', 'closed_form')
    return [name for name in owed if getattr(kind, name) is getattr(Reducer, name)]


def has_toy(host):
    return MODELS.get(host).toy.__func__ is not TokenHost.toy.__func__


@cache
def info(host):
    return HOSTS[host]().info()


def refusal(method, host):
    """Why a host cannot take a method; empty if it can."""
    kind = METHODS[method]
    return kind(**kind.examples[0]).refuses(info(host))


#: What lacks something fails the tests that say so, and takes no part in the others.
COMPLETE = [method for method in METHODS if not lacks(method)]
TOYS = [host for host in HOSTS if has_toy(host)]
PAIRS = [Case(method, host) for method in COMPLETE for host in TOYS if not refusal(method, host)]


def covering(cases):
    """A few of these in which each method and each host comes up."""
    chosen = []
    for enough in (2, 1):  # first those with a method and a host that are both new
        for case in cases:
            new = [
                all(case.method != other.method for other in chosen),
                all(case.host != other.host for other in chosen),
            ]
            if sum(new) >= enough:
                chosen.append(case)
    return chosen


def images(batch=2, size=SQUARE, seed=1):
    """Images of unlike contrast, so that batch mates would show."""
    pictures = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
    return pictures * torch.linspace(0.3, 2, batch).view(-1, 1, 1, 1)


@torch.no_grad()
def run(host, inputs, **kwargs):
    return list(host(inputs, **kwargs))


def train_once(host, inputs, weigh):
    """Backward pass of a training step: weighed outputs, and the method's own losses on random labels."""
    outs, state = host.forward_tokens(inputs)
    total = sum(weigh(out).sum() for out in outs)
    if host.reducer.trainable:
        labels = torch.randint(3, (len(inputs), 1, *inputs.shape[2:]), generator=torch.Generator().manual_seed(3))
        losses = host.reducer.losses(state, [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels])
        assert losses and all(isinstance(value, torch.Tensor) for value in losses.values())
        total = total + sum(value.mean() for name, value in losses.items() if 'loss' in name)
    total.backward()


def close(a, b, tolerance=1e-6):
    """Equal to ``tolerance`` of the largest value."""
    return all(
        x.shape == y.shape and (x - y).abs().max() <= tolerance * y.abs().max().clamp(min=1)
        for x, y in zip(a, b, strict=True)
    )


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------------- driving a method without a host
def bound(method, args):
    reducer = METHODS[method](**args)
    reducer.bind(info(next(c.host for c in PAIRS if c.method == method)))
    return reducer.eval()


def drive(reducer, state):
    """Yields after each call of the method; keys are the tokens themselves."""
    for i in range(DEPTH):
        for call in (reducer.before, reducer.between, reducer.after):
            state.keys = state.x.unflatten(-1, (2, -1)) if reducer.needs_keys else None
            call(state, i)
            yield


def tokens(grid=(7, 9), batch=2, num_prefix=0):
    return torch.randn(batch, num_prefix + grid[0] * grid[1], 32, generator=torch.Generator().manual_seed(2))


def prefix_rows(state):
    if state.lengths is None:
        return state.x[:, : state.num_prefix]
    return torch.stack([image[: state.num_prefix] for image in state.x.split(state.lengths.tolist())])
