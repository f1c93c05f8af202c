"""What every method owes inside windows, and every host that lets methods reduce there (``reduce_within='window'``)."""

import inspect
from dataclasses import replace

import pytest
import torch

from mmtoken.core import TokenState
from mmtoken.core.folding import let
from mmtoken.registry import MODELS

from .cases import COMPLETE, DEPTH, METHODS, TAPS, TOYS, Case, close, equal, images, make, run, toy

WINDOW = 4


def takes(host, key):
    return any(key in inspect.signature(base.__init__).parameters for base in MODELS.get(host).__mro__)


HOSTS = [host for host in TOYS if takes(host, 'reduce_within')]
WINDOWS = dict(window_size=WINDOW, global_blocks=(1,))
INSIDE = dict(WINDOWS, reduce_within='window')
#: Windows cut off at the right; at the bottom too.
SIZES = [(32, 40), (24, 36)]


def refusal(method, host):
    kind = METHODS[method]
    return kind(**kind.examples[0]).refuses(toy(host, **INSIDE).info())


PAIRS = [Case(method, host) for method in COMPLETE for host in HOSTS if not refusal(method, host)]
TAKEN = sorted({case.method for case in PAIRS})
pairs = pytest.mark.parametrize('pair', PAIRS, ids=lambda pair: pair.id)


def bound(method, args):
    host = next(case.host for case in PAIRS if case.method == method)
    reducer = METHODS[method](**args)
    reducer.bind(toy(host, **INSIDE).info())
    return reducer.eval()


def calls(reducer, state, window):
    """Calls a method at each block; keys are the tokens themselves."""
    for i in range(DEPTH):
        for call in (reducer.before, reducer.between, reducer.after):
            state.keys = state.x.unflatten(-1, (2, -1)) if reducer.needs_keys else None
            let(call, state, i, window)


def windows_of(grid):
    """First patch and sides of each window."""
    for y in range(0, grid[0], WINDOW):
        for x in range(0, grid[1], WINDOW):
            yield y, x, min(WINDOW, grid[0] - y), min(WINDOW, grid[1] - x)


@pytest.mark.parametrize('grid', [(8, 8), (7, 9), (3, 10)], ids=str)
@pytest.mark.parametrize('prefix', [0, 2])
@pytest.mark.parametrize('name', TAKEN)
def test_equals_loops_over_windows(name, prefix, grid):
    """Each window of each picture is reduced as a picture of its own; prefix tokens and padding are left alone."""
    n = grid[0] * grid[1]
    x = torch.randn(2, prefix + n, 32, generator=torch.Generator().manual_seed(2))
    padding = torch.zeros(2, *grid, dtype=torch.bool)
    padding[0, -2:], padding[1, :, -3:] = True, True
    for args in METHODS[name].examples:
        reducer = bound(name, args)
        state = TokenState(x.clone(), grid, prefix, padding.flatten(1))
        calls(reducer, state, WINDOW)
        assert torch.equal(state.x[:, :prefix], x[:, :prefix]) and state.x.shape[1] < x.shape[1]

        restored, found = torch.zeros(2, *grid, 32), [[], []]
        for image, tokens in enumerate(x[:, prefix:].unflatten(1, grid)):
            for top, left, down, across in windows_of(grid):
                here = slice(top, top + down), slice(left, left + across)
                alone = TokenState(
                    tokens[here].reshape(1, -1, 32), (down, across), padding=padding[image][here].reshape(1, -1)
                )
                # which keeps as many tokens a patch as a whole window
                alone.layout = replace(alone.layout, window_raster=(WINDOW, WINDOW))
                calls(reducer, alone, None)
                restored[image][here] = alone.dense()[0].unflatten(0, (down, across))
                centres = alone.coords.expand(1, -1, 2) + torch.tensor([top, left])
                parts = alone.x, centres, alone.sizes.expand(1, -1)[..., None], alone.padding[..., None]
                found[image].append(torch.cat(parts, -1)[0])
        assert close([state.dense()], [restored.flatten(1, 2)], 1e-5)
        sizes = state.sizes.expand(2, -1)[..., None]
        ours = torch.cat([state.patches, state.coords.expand(2, -1, 2), sizes, state.padding[..., None]], -1)
        for mine, theirs in zip(ours, map(torch.cat, found)):  # in whatever order
            assert len(mine) == len(theirs)
            distance = torch.cdist(mine, theirs, compute_mode='donot_use_mm_for_euclid_dist')
            assert (distance.amin(1) < 1e-3).all() and (distance.amin(0) < 1e-3).all()
        slots = state.layout.window_slots
        homes = ((state.coords + 0.5 + 1e-3) // WINDOW).expand(2, -1, 2)  # centres lie in their windows
        most = [homes[image].unique(dim=0, return_counts=True)[1].max() for image in (0, 1)]
        assert most == [slots, slots]


@pairs
def test_reducing_nothing_is_bit_equal(pair):
    for size in SIZES:
        inputs = images(2, size)
        host = pair.build(pair.type.identity_example, size=size, out_indices=TAPS, **INSIDE)
        assert equal(run(host, inputs), run(pair.dense(size=size, out_indices=TAPS, **WINDOWS), inputs))


@pairs
@pytest.mark.parametrize('with_padding', [False, True])
def test_a_batch_is_its_images_at_every_tap(pair, with_padding):
    """In windows that are cut off, in blocks that attend to the picture, and in those after them."""
    size, inputs = SIZES[1], images(2, SIZES[1])
    host = pair.last.build(size=size, out_indices=TAPS, **INSIDE)
    padding = host.padding_of(inputs, [(24, 36), (13, 20)]) if with_padding else None
    outs, dense = run(host, inputs, padding=padding), run(pair.dense(size=size, out_indices=TAPS, **WINDOWS), inputs)
    assert [out.shape for out in outs] == [out.shape for out in dense] and not equal(outs[-1:], dense[-1:])
    alone = [run(host, inputs[b : b + 1], padding=None if padding is None else padding[b : b + 1]) for b in range(2)]
    assert close(outs, [torch.cat(parts) for parts in zip(*alone)], 3e-5)
    assert min(host.token_counts(inputs)) < 54


@pairs
def test_windows_as_large_as_the_picture_are_the_grid(pair):
    """One window holds all tokens: where methods reduce makes no difference."""
    size, inputs = (32, 32), images(2, (32, 32))
    one = dict(window_size=8, global_blocks=(1,))
    outs = [run(pair.last.build(size=size, **one, reduce_within=where), inputs) for where in ('grid', 'window')]
    assert close(*outs, 3e-5)


@pytest.mark.parametrize('name', HOSTS)
def test_what_does_not_go_together_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match=r"backbone\.reduce_within='window' needs windows[^\n]+$"):
        make(name, **{**INSIDE, 'window_size': 0 if name == 'TokenTimmSAM' else None, 'global_blocks': None})
    with pytest.raises(ValueError, match=r"backbone\.reduce_within='windows'[^\n]+$"):
        make(name, **WINDOWS, reduce_within='windows')
    for method in COMPLETE:
        if refusal(method, name):
            with pytest.raises(ValueError, match=rf'{name}: reducer {method} [^\n]+\.$'):
                make(name, dict(type=f'mmtoken.{method}', **METHODS[method].examples[0]), **INSIDE)
