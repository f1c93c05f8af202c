"""Windows of centres against plain loops."""

import pytest
import torch

from mmtoken.methods.expedit.cells import _sum_shifted, neighbours, scatter_to_neighbours


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


@pytest.mark.parametrize('grid', [(4, 5), (2, 3), (1, 1)])
@pytest.mark.parametrize('window', [1, 3, 5])
def test_scatter_for_graphs_is_the_same_sum(grid, window):
    values = torch.randn(2, grid[0] * grid[1], window * window, 3)
    graph = _sum_shifted(values.unflatten(1, grid), window).flatten(1, 2)
    assert torch.equal(graph, scatter_to_neighbours(values, grid, window))
