"""Home cells and windows of centres against plain loops."""

import pytest
import torch

from mmtoken.methods.expedit.cells import home_cells, neighbours, scatter_to_neighbours

GRIDS = [((6, 6), (3, 3)), ((5, 7), (3, 4)), ((7, 10), (4, 3)), ((4, 4), (4, 4)), ((9, 5), (1, 5)), ((11, 13), (7, 8))]


@pytest.mark.parametrize('raster, grid', GRIDS)
def test_home_cells(raster, grid):
    members, filled = home_cells(raster, grid)
    for y in range(raster[0]):
        for x in range(raster[1]):
            token, home = y * raster[1] + x, (y * grid[0] // raster[0]) * grid[1] + x * grid[1] // raster[1]
            rows = members[home][filled[home]].tolist()
            assert rows.count(token) == 1
    assert filled.sum() == raster[0] * raster[1], 'every token has one slot and no slot is filled twice'
    assert members.max() < raster[0] * raster[1] and members.min() >= 0


@pytest.mark.parametrize('grid', [(4, 5), (2, 3), (1, 1)])
@pytest.mark.parametrize('window', [1, 3, 5])
def test_neighbours(grid, window):
    h, w = grid
    centres = torch.randn(2, h * w, 3)
    around = neighbours(centres, grid, window)
    assert around.shape == (2, h * w, window * window, 3)
    radius = window // 2
    for i in range(h):
        for j in range(w):
            for k in range(window * window):
                y, x = i + k // window - radius, j + k % window - radius
                inside = 0 <= y < h and 0 <= x < w
                expected = centres[:, y * w + x] if inside else torch.zeros(2, 3)
                assert torch.equal(around[:, i * w + j, k], expected)


@pytest.mark.parametrize('grid', [(4, 5), (2, 3)])
@pytest.mark.parametrize('window', [1, 3, 5])
def test_scatter_is_the_adjoint_of_neighbours(grid, window):
    """⟨Ax, y⟩ = ⟨x, Aᵀy⟩, and Aᵀ is what autograd makes of A."""
    x = torch.randn(2, grid[0] * grid[1], 3, dtype=torch.float64, requires_grad=True)
    y = torch.randn(2, grid[0] * grid[1], window * window, 3, dtype=torch.float64)
    left = (neighbours(x, grid, window) * y).sum()
    scattered = scatter_to_neighbours(y, grid, window)
    assert torch.allclose(left, (x * scattered).sum())
    assert torch.allclose(torch.autograd.grad(left, x)[0], scattered)


def test_scatter_passes_gradients():
    y = torch.randn(1, 6, 9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: scatter_to_neighbours(t, (2, 3), 3), y)
