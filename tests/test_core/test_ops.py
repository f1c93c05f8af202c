"""Pure tensor functions against loops."""

import pytest
import torch
import torch.nn.functional as F

from mmtoken.core import ops

GRIDS = [((6, 6), (3, 3)), ((5, 7), (3, 4)), ((7, 10), (4, 3)), ((4, 4), (4, 4)), ((9, 5), (1, 5)), ((11, 13), (7, 8))]


@pytest.mark.parametrize('raster, grid', GRIDS)
def test_pool_to_grid(raster, grid):
    x = torch.randn(2, raster[0] * raster[1], 3)
    expected = F.adaptive_avg_pool2d(x.transpose(1, 2).reshape(2, 3, *raster), grid).flatten(2).transpose(1, 2)
    assert torch.allclose(ops.pool_to_grid(x, raster, grid), expected, atol=1e-6)


@pytest.mark.parametrize('raster, grid', GRIDS)
def test_pool_to_grid_over_the_valid_tokens_only(raster, grid):
    x = torch.randn(2, raster[0] * raster[1], 3)
    valid = torch.rand(2, raster[0] * raster[1]) > 0.5
    valid[1, : raster[1] * (raster[0] // 2)] = False
    out = ops.pool_to_grid(x, raster, grid, valid)
    for b in range(2):
        for i in range(grid[0]):
            for j in range(grid[1]):  # bins of adaptive pooling: floor to ceil, so they may overlap
                y = range(i * raster[0] // grid[0], -(-(i + 1) * raster[0] // grid[0]))
                z = range(j * raster[1] // grid[1], -(-(j + 1) * raster[1] // grid[1]))
                tokens = [p * raster[1] + q for p in y for q in z if valid[b, p * raster[1] + q]]
                expected = x[b, tokens].mean(0) if tokens else torch.zeros(3)
                assert torch.allclose(out[b, i * grid[1] + j], expected, atol=1e-5)


@pytest.mark.parametrize('raster, grid', GRIDS)
def test_home_cells(raster, grid):
    members, filled = ops.home_cells(raster, grid)
    for y in range(raster[0]):
        for x in range(raster[1]):
            token, home = y * raster[1] + x, (y * grid[0] // raster[0]) * grid[1] + x * grid[1] // raster[1]
            rows = members[home][filled[home]].tolist()
            assert rows.count(token) == 1
    assert filled.sum() == raster[0] * raster[1], 'every token has one slot and no slot is filled twice'
    assert members.max() < raster[0] * raster[1] and members.min() >= 0


@pytest.mark.parametrize('raster, grid', GRIDS)
def test_cells_with_a_valid_token_of_their_own(raster, grid):
    valid = torch.rand(2, raster[0] * raster[1]) > 0.8
    found = ops.cells_with(valid, raster, grid)
    for b in range(2):
        own = {
            (p // raster[1] * grid[0] // raster[0], p % raster[1] * grid[1] // raster[1])
            for p in valid[b].nonzero().flatten().tolist()
        }
        assert {divmod(c, grid[1]) for c in found[b].nonzero().flatten().tolist()} == own


def test_grid_coords_are_the_means_of_the_cells():
    full = torch.tensor([[y, x] for y in range(6) for x in range(8)], dtype=torch.float32)[None]
    expected = ops.pool_to_grid(full, (6, 8), (3, 2))
    assert torch.allclose(ops.grid_coords((6, 8), (3, 2)), expected)
    assert torch.allclose(ops.grid_coords((6, 8), (6, 8)), full)
    odd = ops.grid_coords((5, 7), (2, 3))
    assert torch.allclose(odd[0, 0], torch.tensor([0.75, 2 / 3]), atol=1e-6)


@pytest.mark.parametrize('part', [0, 0.3, 1])
def test_indices_of(part):
    mask = torch.rand(50) < part
    assert torch.equal(ops.indices_of(mask, int(mask.sum())), mask.nonzero()[:, 0])
    assert ops.indices_of(mask[:0], 0).shape == (0,)


def test_places_of():
    mask = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 1, 1]], dtype=torch.bool)
    assert ops.places_of(mask, 3).tolist() == [[1, 2, 4], [0, 3, 4]]


@pytest.mark.parametrize('number', [0, 1, 4, 9, 20])
def test_the_largest_are_those_of_a_stable_sort(number):
    values = torch.randint(4, (30, 20)).float()  # mostly ties
    values[:10, ::3] = float('-inf')
    order = values.argsort(dim=1, descending=True, stable=True)[:, :number]
    assert torch.equal(ops.largest(values, number), torch.zeros(30, 20, dtype=torch.bool).scatter(1, order, True))
