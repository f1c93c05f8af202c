"""What every host owes its models, with or without a method."""

import pytest
import torch
from torch import nn

from mmtoken.core import Reducer, TokenHost
from mmtoken.registry import MODELS
from mmtoken.testing import PATCH, SIDE

from .cases import HOSTS, METHODS, SQUARE, TAPS, close, equal, has_toy, images, info, make, refusal, run, toy


@pytest.mark.parametrize('name', HOSTS)
def test_a_host_brings_what_its_tests_need(name):
    assert has_toy(name), f'{name} has no toy(), which makes a small one'


def test_a_host_says_what_it_is(host):
    model, told = toy(host), info(host)
    assert told.depth == len(model.blocks) and max(told.out_indices) < told.depth and model.patch_size > 0
    first = 0
    for stage in told.stages:
        assert stage.first == first and len(stage.windows) == stage.depth
        assert all(told.stage_of(i) is stage for i in range(first, first + stage.depth))
        first += stage.depth
    assert first == told.depth and told.stages[0].embed_dims == told.embed_dims


def test_a_host_has_the_names_of_the_class_it_derives_from(host):
    """So it loads the checkpoints of that."""
    kind = MODELS.get(host)
    stock = next(base for base in kind.__mro__ if issubclass(base, nn.Module) and not issubclass(base, TokenHost))
    if stock.forward is nn.Module.forward:
        pytest.skip('derives from no backbone')
    assert list(toy(host).state_dict()) == list(stock(**kind.toy(SQUARE)).state_dict())


def test_what_is_in_a_place_shows_in_that_place(host):
    """In every output: the tokens of a dense host lie where it says."""
    size, inputs = (20, 36), images(12, (20, 36))
    model = toy(host, size=size, out_indices=TAPS)
    for y, x in ((0, 0), (0, 8), (4, 0), (1, 5), (3, 2)):
        changed = inputs.clone()
        changed[..., y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH] += 0.03
        for before, after in zip(run(model, inputs), run(model, changed)):
            change = (after - before).norm(dim=1).mean(0)
            down, across = (-(-side // PATCH // n) for side, n in zip(size, change.shape))
            assert change[y // down, x // across] >= 0.999 * change.max()


def test_what_is_in_a_place_is_seen_by_its_neighbours(host):
    """Within a stage of several blocks, also across the borders of windows."""
    size, grid = (24, 36), (6, 9)
    model = make(host, size=size, out_indices=TAPS).double()
    places = [(y, x) for y in range(grid[0]) for x in range(grid[1])]
    picture = images(1, size).double()
    changed = picture.repeat(len(places), 1, 1, 1)
    for one, (y, x) in zip(changed, places):
        one[:, y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH] += 1
    before, after = run(model, picture), run(model, changed)
    for stage in info(host).stages:
        last = stage.first + stage.depth - 1
        moved = (after[last] - before[last]).abs().amax(1) > 1e-9
        down, across = (-(-side // few) for side, few in zip(grid, moved.shape[1:]))
        seen = {}
        for (y, x), far in zip(places, moved):
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                cells = (y // down, x // across), (near[0] // down, near[1] // across)
                if near in places and cells[0] != cells[1]:
                    seen[cells] = seen.get(cells, False) or bool(far[cells[1]])
        assert stage.depth == 1 or all(seen.values()), [cells for cells, yes in seen.items() if not yes]


def test_a_batch_is_its_images_without_a_method(host):
    inputs = images(3, (20, 36))
    model = toy(host, size=(20, 36), out_indices=TAPS)
    alone = [run(model, inputs[b : b + 1]) for b in range(3)]
    assert close(run(model, inputs), [torch.cat(outs) for outs in zip(*alone)], 3e-5)


def test_a_host_weighs_keys_by_the_sizes_of_tokens(host):
    if refusal('ToMe', host):
        pytest.skip('takes no method that merges')
    merge = [dict(type='mmtoken.ToMe', r=8, proportional=proportional) for proportional in (True, False)]
    outs = [run(toy(host, reducer), images()) for reducer in merge]
    assert not close(*outs, 1e-3)


def test_a_host_refuses_when_it_is_built(host, method):
    """What it cannot run, in one line that names both."""
    if refusal(method, host):
        with pytest.raises(ValueError, match=rf'{host}: reducer {method} [^\n]+\.$'):
            HOSTS[host](reducer=dict(type=f'mmtoken.{method}', **METHODS[method].examples[0]))


class Ragged(Reducer):
    dynamic = True


def test_a_host_that_packs_nothing_refuses_dynamic_methods(host):
    if info(host).ragged and not info(host).ragged_stem:
        HOSTS[host](reducer=Ragged())
    else:
        with pytest.raises(ValueError, match=f'{host}: reducer Ragged'):
            HOSTS[host](reducer=Ragged())


def test_a_host_takes_a_padding_mask(case):
    padding = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    padding[0, 5:], padding[1, :, 7:] = True, True
    inputs = images()
    dense = run(case.dense(), inputs, padding=padding)
    assert equal(run(case.build(case.type.identity_example), inputs, padding=padding), dense)
    outs = run(case.build(case.type.examples[-1]), inputs, padding=padding)
    assert all(out.isfinite().all() for out in outs)
    assert not equal(outs, run(case.build(case.type.examples[-1]), inputs))
