"""The map covers the picture; padding is known; small pictures and empty batches: for every host."""

import re

import pytest
import torch
import torch.nn.functional as F

from mmtoken.registry import REDUCERS
from mmtoken.testing import PATCH, toy_hosts

REDUCERS.import_from_location()
HOSTS = toy_hosts()
METHODS = dict(sorted(REDUCERS.module_dict.items()))
#: No side is a multiple of the patch of 4 pixels.
ODD = (30, 37)
hosts = pytest.mark.parametrize('name', HOSTS)


def own_fit(name):
    return 'pad' if HOSTS[name]().pads else 'crop'


def skip_unless_they_go_together(name, method):
    reason = method and METHODS[method](**METHODS[method].examples[0]).refuses(HOSTS[name]().info())
    if reason:
        pytest.skip(f'{method} {reason}')


def run(host, x, **kwargs):
    with torch.no_grad():
        return host(x, **kwargs)[0]


@hosts
def test_resized_pictures_give_the_map_of_whole_patches(name):
    """Exactly the map of the picture that was resized by hand, on the grid that the stem makes anyhow."""
    host = HOSTS[name](size=ODD, fit='resize')
    grid = HOSTS[name](size=ODD, fit=own_fit(name)).stem(torch.zeros(1, 3, *ODD)).grid
    assert host.grid_of(ODD) == tuple(grid)
    x = torch.randn(2, 3, *ODD)
    whole = F.interpolate(x, (grid[0] * PATCH, grid[1] * PATCH), mode='bilinear', align_corners=False)
    assert torch.equal(run(host, x), run(host, whole))
    assert run(host, x).shape[-2:] == grid
    host.fit = own_fit(name)
    assert not torch.equal(run(host, x), run(host, whole))


@pytest.mark.parametrize('size', [(30, 57), (57, 30), (29, 58), (31, 59)], ids=str)
@hosts
def test_an_edge_stays_where_it_is(name, size):
    """An edge in the middle of the picture comes out in the middle of the map, and at its end where it is padded."""
    found = {}
    for fit in ('resize', own_fit(name)):
        host = HOSTS[name](size=size, fit=fit)
        pictures = torch.zeros(1, 3, *size)
        pictures[..., size[1] // 2 :] = 1
        patches = host.fitted(pictures)
        width = host.grid_of(size)[1] * PATCH
        patches = F.pad(patches, (0, width - patches.shape[-1]), value=2) if host.pads else patches[..., :width]
        covered = (patches[0, 0, 0] < 0.5).sum().item() / patches.shape[-1]
        found[fit] = abs(covered - (size[1] // 2) / size[1])
    assert found['resize'] <= 0.5 / size[1] + 1e-6
    assert found['resize'] <= found[own_fit(name)]


@hosts
def test_sides_of_whole_patches_are_left_alone(name):
    x = torch.randn(1, 3, 24, 40)
    results = [run(seeded(name, size=(24, 40), fit=fit), x) for fit in ('resize', own_fit(name))]
    assert torch.equal(*results)


def seeded(name, **kwargs):
    torch.manual_seed(0)
    return HOSTS[name](**kwargs)


@hosts
@pytest.mark.parametrize('fit', ['Resize', 'stretch', True, 3, []])
def test_other_fits(name, fit):
    own = own_fit(name)
    with pytest.raises(
        ValueError, match=re.escape(f"backbone.fit={fit!r} is unknown; choose one of 'resize', '{own}'")
    ):
        HOSTS[name](fit=fit)


# ------------------------------------------------------------------------------------------------------------- padding
FITS = [(name, fit) for name in HOSTS for fit in ('resize', own_fit(name))]


def slow_padding(host, inputs, sizes):
    """Patches of which no pixel lies in the picture, by running the stem's geometry over a picture of ones."""
    marks = torch.zeros(len(sizes), 1, *inputs.shape[-2:])
    for mark, (h, w) in zip(marks, sizes):
        mark[:, :h, :w] = 1
    grid = host.grid_of(inputs.shape[-2:])
    if host.fit == 'resize':  # patch i covers [i, i + 1) · side / grid pixels
        rows, columns = (torch.arange(n) * side for n, side in zip(grid, inputs.shape[-2:]))
        sides = torch.tensor(sizes)
        down = rows[None] >= sides[:, :1] * grid[0]
        across = columns[None] >= sides[:, 1:] * grid[1]
        return down[:, :, None] | across[:, None]
    pads = [n * PATCH - side for n, side in zip(grid, inputs.shape[-2:])]
    before = [max(p, 0) // 2 if host.pads == 'same' else 0 for p in pads]
    marks = F.pad(marks, (before[1], pads[1] - before[1], before[0], pads[0] - before[0]))
    return F.max_pool2d(marks, PATCH)[:, 0] == 0


@pytest.mark.parametrize('inputs', [(32, 40), (30, 37), (33, 33), (29, 43)], ids=str)
@pytest.mark.parametrize(('name', 'fit'), FITS)
def test_padding_is_what_holds_no_pixel_of_the_picture(name, fit, inputs):
    host = HOSTS[name](size=inputs, fit=fit)
    sizes = [(h, w) for h in (1, 4, 5, 13, 28, 29) for w in (3, 4, 17, 31, inputs[1])]
    batch = torch.zeros(len(sizes), 3, *inputs)
    assert torch.equal(host.padding_of(batch, sizes), slow_padding(host, batch, sizes))
    assert host.padding_of(batch[:2], [inputs] * 2) is None


def test_padding_on_both_sides():
    """mmseg's ViT with ``patch_pad='same'`` shifts the picture by half of what it adds."""
    host = HOSTS['TokenVisionTransformer'](patch_pad='same')
    assert host.pads == 'same'
    for inputs in ((30, 37), (29, 38), (31, 39)):
        sizes = [(h, w) for h in range(1, inputs[0], 3) for w in range(1, inputs[1], 3)]
        batch = torch.zeros(len(sizes), 3, *inputs)
        assert torch.equal(host.padding_of(batch, sizes), slow_padding(host, batch, sizes))
    assert HOSTS['TokenVisionTransformer'](patch_pad=0).pads == ''


@pytest.mark.parametrize('method', [m for m in METHODS if METHODS[m].examples])
@pytest.mark.parametrize(('name', 'fit'), FITS)
def test_a_padded_picture_does_not_depend_on_its_mates(name, fit, method):
    kind = METHODS[method]
    skip_unless_they_go_together(name, method)
    host = HOSTS[name](size=ODD, fit=fit, reducer=dict(type=f'mmtoken.{method}', **kind.examples[-1]))
    host.served = True
    sizes = [(30, 37), (17, 23), (30, 12), (9, 37)]
    x = torch.zeros(4, 3, *ODD)
    for picture, (h, w) in zip(x, sizes):
        picture[:, :h, :w] = torch.randn(3, h, w)
    with host.padded(host.padding_of(x, sizes)):
        together = run(host, x)
    for b, size in enumerate(sizes):
        one = x[b : b + 1]
        with host.padded(host.padding_of(one, [size])):
            alone = run(host, one)
        assert (together[b] - alone[0]).abs().max() <= 3e-5 * alone.abs().max()
    assert host.padding is None


# ------------------------------------------------------------------------------------------------ the smallest batches
@pytest.mark.parametrize('method', [None, *METHODS])
@hosts
def test_an_empty_batch_gives_empty_maps(name, method):
    kind = METHODS.get(method)
    skip_unless_they_go_together(name, method)
    for args in [None] if kind is None else [kind.identity_example, *kind.examples]:
        reducer = None if kind is None else dict(type=f'mmtoken.{method}', **args)
        host = HOSTS[name](size=ODD, reducer=reducer)
        host.served = True
        empty = torch.zeros(0, 3, *ODD)
        for mode in (True, False):
            host.train(mode)
            if mode and kind is not None and host.reducer.trainable:
                with pytest.raises(ValueError, match=f'batch is empty, and reducer {method}'):
                    host(empty)
            else:
                assert host(empty)[0].shape == (0, 32, *host.grid_of(ODD))
        assert all(count == 0 for count in host.forward_tokens(empty)[1].counts)


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('size', [(1, 1), (3, 30), (30, 3)], ids=str)
@pytest.mark.parametrize('name', [name for name in HOSTS if HOSTS[name]().pads])
def test_pictures_smaller_than_a_patch(name, size, method):
    skip_unless_they_go_together(name, method)
    for args in METHODS[method].examples:
        host = HOSTS[name](reducer=dict(type=f'mmtoken.{method}', **args))
        host.served = True
        try:
            out = run(host, torch.randn(2, 3, *size))
        except ValueError as error:  # a method may need more patches, and says so
            if re.fullmatch(rf'reducer {method}: the picture has \d+x\d+ patches.*', str(error)):
                continue
            raise
        assert out.shape[-2:] == host.grid_of(size)
        assert out.isfinite().all()
