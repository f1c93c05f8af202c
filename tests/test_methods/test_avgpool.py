"""AvgPool is average pooling and interpolation."""

import pytest
import torch
import torch.nn.functional as F

from mmtoken.core import HostInfo, TokenState
from mmtoken.methods.avgpool import AvgPool


def make(**kwargs):
    reducer = AvgPool(**dict(dict(layer=1), **kwargs))
    reducer.bind(HostInfo(depth=4, embed_dims=5, num_heads=1, out_indices=(3,)))
    return reducer


def as_map(tokens, raster):
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, *raster)


@pytest.mark.parametrize('raster', [(4, 6), (8, 2)])
@pytest.mark.parametrize('mode', ['bilinear', 'nearest'])
@pytest.mark.parametrize('num_prefix', [0, 2])
def test_two_by_two(raster, mode, num_prefix):
    state = TokenState(torch.randn(2, num_prefix + raster[0] * raster[1], 5), raster, num_prefix)
    prefix, maps = state.x[:, :num_prefix].clone(), as_map(state.patches, raster)
    make(mode=mode).before(state, 1)
    pooled = F.avg_pool2d(maps, 2)
    assert state.raster == tuple(pooled.shape[2:])
    assert torch.allclose(as_map(state.patches, state.raster), pooled, atol=1e-6)
    full = F.interpolate(pooled, raster, mode=mode, align_corners=None if mode == 'nearest' else False)
    assert torch.allclose(as_map(state.dense(), raster), full, atol=1e-6)
    assert torch.equal(state.x[:, :num_prefix], prefix)


@pytest.mark.parametrize(
    'raster, grid, expected',
    [
        ((5, 7), (3, 4), (3, 4)),
        ((5, 7), (2, 7), (2, 7)),
        ((6, 8), 0.75, (4, 6)),
        ((1, 8), 0.5, (1, 4)),
    ],
)
def test_any_grid(raster, grid, expected):
    state = TokenState(torch.randn(2, raster[0] * raster[1], 5), raster)
    maps = as_map(state.patches, raster)
    make(grid=grid).before(state, 1)
    assert state.raster == expected
    assert torch.allclose(as_map(state.patches, expected), F.adaptive_avg_pool2d(maps, expected), atol=1e-6)
    assert state.sizes.sum().item() == pytest.approx(raster[0] * raster[1])
    assert state.coords.shape == (1, expected[0] * expected[1], 2)


def test_padding_is_left_out_of_the_means():
    state = TokenState(torch.randn(2, 24, 5), (4, 6), padding=torch.zeros(2, 24, dtype=torch.bool))
    x = state.x.clone().view(2, 4, 6, 5)
    state.padding.view(2, 4, 6)[0, :, 3:] = True
    make().before(state, 1)
    assert state.padding.tolist() == [[False, False, True] * 2, [False] * 6]
    assert torch.allclose(state.patches[0, 0], x[0, :2, :2].mean((0, 1)), atol=1e-6)
    assert torch.allclose(state.patches[0, 1], x[0, :2, 2].mean(0), atol=1e-6)
    assert torch.allclose(state.patches[1, 1], x[1, :2, 2:4].mean((0, 1)), atol=1e-6)


def test_blocks_that_see_fewer_tokens():
    x = torch.randn(1, 24, 5)
    state, kept = TokenState(x, (4, 6)), TokenState(x, (4, 6))
    restoring, keeping, counts = make(restore_at=3), make(), []
    for i in range(4):
        restoring.before(state, i)
        keeping.before(kept, i)
        counts.append(state.patches.shape[1])
    assert counts == [24, 6, 6, 24]
    assert torch.equal(state.patches, kept.dense())


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(mode='cubic'), "mode='cubic' is unknown; choose one of 'bilinear', 'nearest'"),
        (dict(grid=0), r'grid=0 is outside \(0, 1\]'),
        (dict(layer=4), r'reducer\.layer=4.*0 to 3'),
        (dict(restore_at=1), r'reducer\.restore_at=1 must come after layer=1'),
    ],
)
def test_arguments_that_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)
