"""Bipartite matching against plain loops."""

import pytest
import torch

from mmtoken.methods.tome.matching import bipartite_match


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
    source, target, score = bipartite_match(metric, r)
    for b in range(3):
        expected = match_by_loops(metric[b], r)
        assert list(zip(source[b].tolist(), target[b].tolist())) == [edge[:2] for edge in expected]
        assert torch.allclose(score[b].double(), torch.tensor([e[2] for e in expected], dtype=torch.float64), atol=1e-5)


def test_ties_are_settled_by_position():
    metric = torch.ones(2, 8, 4)
    source, target, _ = bipartite_match(metric, 3)
    assert source.tolist() == [[0, 2, 4]] * 2 and target.tolist() == [[1, 1, 1]] * 2
    mixed = torch.tensor([[[1, 0], [0, 1], [0, 1], [1, 0], [1, 0], [1, 0.0]]])
    source, target, _ = bipartite_match(mixed, 3)
    assert (source.tolist(), target.tolist()) == ([[0, 2, 4]], [[3, 1, 3]])


def test_a_large_number_of_ties_is_stable():
    """An unstable sort only shows on long rows."""
    source, _, _ = bipartite_match(torch.ones(1, 400, 2), 150)
    assert source[0].tolist() == list(range(0, 300, 2))


def test_zero_vectors_are_similar_to_nothing_and_give_no_nan():
    metric = torch.randn(1, 8, 5)
    metric[0, [2, 5]] = 0
    metric[0, [0, 7]] = torch.tensor([1.0, 2, 3, 4, 5])
    source, target, score = bipartite_match(metric, 4)
    assert score.isfinite().all() and score[0, source[0].tolist().index(2)] == 0
    assert (source[0, 0], target[0, 0]) == (0, 7)


def test_scale_of_the_metric_does_not_matter():
    metric = torch.randn(2, 10, 5)
    factors = torch.rand(2, 10, 1) * 100 + 0.01
    assert torch.equal(bipartite_match(metric, 4)[1], bipartite_match(metric * factors, 4)[1])


def test_invalid_tokens_are_left_out():
    metric = torch.randn(3, 12, 5, dtype=torch.float64)
    valid = torch.ones(3, 12, dtype=torch.bool)
    valid[0, [0, 5, 6]] = valid[1, 8:] = False
    source, target, _ = bipartite_match(metric, 4, valid)
    for b in range(3):
        expected = match_by_loops(metric[b], 4, valid[b].tolist())
        assert list(zip(source[b].tolist(), target[b].tolist())) == [edge[:2] for edge in expected]


def test_more_merges_than_valid_tokens_spare_the_valid_ones():
    """The count is promised, so invalid tokens have to merge as well: then among themselves."""
    metric = torch.randn(1, 12, 5)
    valid = torch.zeros(1, 12, dtype=torch.bool)
    valid[0, :4] = True
    source, target, _ = bipartite_match(metric, 5, valid)
    pairs = list(zip(source[0].tolist(), target[0].tolist()))
    assert {a for a, _ in pairs if a < 4} == {0, 2}
    assert all((a < 4) == (b < 4) for a, b in pairs)


def test_places_may_be_counted_with_the_class_token():
    """As in the authors' code: tokens at even places of all, the class token at 0, which itself never merges."""
    metric = torch.randn(1, 9, 5)
    source, target, _ = bipartite_match(metric[:, 1:], 3, first=1)
    assert (source % 2 == 1).all() and (target % 2 == 0).all()
    cosines = torch.nn.functional.cosine_similarity(metric[0, ::2, None], metric[0, None, 1::2], dim=-1)
    cosines[0] = -torch.inf
    best, partner = cosines.max(1)
    edges = best.argsort(descending=True)[:3]
    assert torch.equal(source[0] + 1, 2 * edges) and torch.equal(target[0] + 1, 2 * partner[edges] + 1)
