"""Pure tensor functions against loops."""

import pytest
import torch
import torch.nn.functional as F

from mmtoken.core import ops

GRIDS = [((6, 6), (3, 3)), ((5, 7), (3, 4)), ((7, 10), (4, 3)), ((4, 4), (4, 4)), ((9, 5), (1, 5)), ((11, 13), (7, 8))]


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


@pytest.mark.parametrize('grid', [(4, 5), (2, 3), (1, 1)])
@pytest.mark.parametrize('window', [1, 3, 5])
def test_neighbours(grid, window):
    h, w = grid
    centres = torch.randn(2, h * w, 3)
    around = ops.neighbours(centres, grid, window)
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
    left = (ops.neighbours(x, grid, window) * y).sum()
    scattered = ops.scatter_to_neighbours(y, grid, window)
    assert torch.allclose(left, (x * scattered).sum())
    assert torch.allclose(torch.autograd.grad(left, x)[0], scattered)


def test_scatter_passes_gradients():
    y = torch.randn(1, 6, 9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: ops.scatter_to_neighbours(t, (2, 3), 3), y)


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


def test_grid_coords_are_the_means_of_the_cells():
    full = torch.tensor([[y, x] for y in range(6) for x in range(8)], dtype=torch.float32)[None]
    expected = ops.pool_to_grid(full, (6, 8), (3, 2))
    assert torch.allclose(ops.grid_coords((6, 8), (3, 2)), expected)
    assert torch.allclose(ops.grid_coords((6, 8), (6, 8)), full)
    odd = ops.grid_coords((5, 7), (2, 3))
    assert torch.allclose(odd[0, 0], torch.tensor([0.75, 2 / 3]), atol=1e-6)


def match_by_loops(metric, r, valid=None):
    """Each even token's best odd one, the first on a tie; then the r best of these, the first on a tie."""
    n = len(metric)
    valid = [True] * n if valid is None else valid
    edges = []
    for a in range(0, n, 2):
        best, partner = None, None
        for b in range(1, n, 2):
            if not (valid[a] and valid[b]):
                continue
            norm = float(metric[a].norm() * metric[b].norm())
            cosine = float(metric[a] @ metric[b]) / norm if norm > 0 else 0.0
            if best is None or cosine > best:
                best, partner = cosine, b
        if partner is not None:
            edges.append((a, partner, best))
    return sorted(edges, key=lambda edge: -edge[2])[:r]  # Python's sort is stable


@pytest.mark.parametrize('n', [8, 9, 2])
@pytest.mark.parametrize('r', [1, 3, 4])
def test_bipartite_match(n, r):
    r = min(r, n // 2)
    metric = torch.randn(3, n, 5, dtype=torch.float64)
    source, target, score = ops.bipartite_match(metric, r)
    for b in range(3):
        expected = match_by_loops(metric[b], r)
        assert list(zip(source[b].tolist(), target[b].tolist())) == [edge[:2] for edge in expected]
        assert torch.allclose(score[b].double(), torch.tensor([e[2] for e in expected], dtype=torch.float64), atol=1e-5)


def test_ties_are_settled_by_position():
    metric = torch.ones(2, 8, 4)
    source, target, _ = ops.bipartite_match(metric, 3)
    assert source.tolist() == [[0, 2, 4]] * 2 and target.tolist() == [[1, 1, 1]] * 2
    mixed = torch.tensor([[[1, 0], [0, 1], [0, 1], [1, 0], [1, 0], [1, 0.0]]])
    source, target, _ = ops.bipartite_match(mixed, 3)
    assert (source.tolist(), target.tolist()) == ([[0, 2, 4]], [[3, 1, 3]])


def test_a_large_number_of_ties_is_stable():
    """An unstable sort only shows on long rows."""
    source, _, _ = ops.bipartite_match(torch.ones(1, 400, 2), 150)
    assert source[0].tolist() == list(range(0, 300, 2))


def test_zero_vectors_are_similar_to_nothing_and_give_no_nan():
    metric = torch.randn(1, 8, 5)
    metric[0, [2, 5]] = 0
    metric[0, [0, 7]] = torch.tensor([1.0, 2, 3, 4, 5])
    source, target, score = ops.bipartite_match(metric, 4)
    assert score.isfinite().all() and score[0, source[0].tolist().index(2)] == 0
    assert (source[0, 0], target[0, 0]) == (0, 7)


def test_scale_of_the_metric_does_not_matter():
    metric = torch.randn(2, 10, 5)
    factors = torch.rand(2, 10, 1) * 100 + 0.01
    assert torch.equal(ops.bipartite_match(metric, 4)[1], ops.bipartite_match(metric * factors, 4)[1])


def test_invalid_tokens_are_left_out():
    metric = torch.randn(3, 12, 5, dtype=torch.float64)
    valid = torch.ones(3, 12, dtype=torch.bool)
    valid[0, [0, 5, 6]] = valid[1, 8:] = False
    source, target, _ = ops.bipartite_match(metric, 4, valid)
    for b in range(3):
        expected = match_by_loops(metric[b], 4, valid[b].tolist())
        assert list(zip(source[b].tolist(), target[b].tolist())) == [edge[:2] for edge in expected]


def test_more_merges_than_valid_tokens_spare_the_valid_ones():
    """The count is promised, so invalid tokens have to merge as well: then among themselves."""
    metric = torch.randn(1, 12, 5)
    valid = torch.zeros(1, 12, dtype=torch.bool)
    valid[0, :4] = True
    source, target, _ = ops.bipartite_match(metric, 5, valid)
    pairs = list(zip(source[0].tolist(), target[0].tolist()))
    assert {a for a, _ in pairs if a < 4} == {0, 2}
    assert all((a < 4) == (b < 4) for a, b in pairs)


# ---------------------------------------------------------------------- early exit
@pytest.mark.parametrize('k', [0, 1, 3])
def test_top_of_group(k):
    score = torch.randint(5, (200,)) / 4  # many ties
    group = torch.randint(7, (200,))  # group 6 is none
    expected = torch.zeros(200, dtype=torch.bool)
    for g in range(6):
        members = [i for i in range(200) if group[i] == g]
        for i in sorted(members, key=lambda i: (-float(score[i]), i))[:k]:
            expected[i] = True
    assert torch.equal(ops.top_of_group(score, group, k, 6), expected)
    assert ops.top_of_group(score[:0], group[:0], k, 6).shape == (0,)


@pytest.mark.parametrize('part', [0, 0.3, 1])
def test_indices_of(part):
    mask = torch.rand(50) < part
    assert torch.equal(ops.indices_of(mask, int(mask.sum())), mask.nonzero()[:, 0])
    assert ops.indices_of(mask[:0], 0).shape == (0,)
