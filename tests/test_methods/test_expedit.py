"""Expedit against slow loops over its equations (arXiv 2210.01035, sections 3.2 and 3.3)."""

import copy
import math

import pytest
import torch

from mmtoken.core import HostInfo, TokenState
from mmtoken.methods.expedit import Expedit

CASES = [  # raster, grid, λ, κ, T, k
    ((6, 6), (3, 3), 3, 2, 0.5, 4),
    ((6, 6), (3, 3), 5, 5, 2.0, 20),
    ((5, 7), (3, 4), 3, 3, 1.0, 5),
    ((7, 5), (3, 5), 1, 4, 1.0, 1),
    ((8, 4), (4, 3), 5, 1, 0.05, 12),
    ((4, 9), (2, 7), 3, 5, 10.0, 3),
    ((6, 4), (1, 1), 5, 2, 1.0, 20),
]


def distance(a, b):
    return (a.detach() - b.detach()).square().sum()


def softmax(logits):
    """Of a dict of numbers."""
    top = max(logits.values())
    exps = {key: math.exp(value - top) for key, value in logits.items()}
    total = sum(exps.values())
    return {key: value / total for key, value in exps.items()}


def bins(size, cells, i):
    """Tokens of bin i of adaptive average pooling."""
    return range(i * size // cells, -(-(i + 1) * size // cells))


def cluster_by_loops(x, raster, grid, window, iterations, temperature, valid=None):
    """S^κ of one image ``(N, C)``, and which centres stand for a valid token."""
    valid = [True] * len(x) if valid is None else valid
    (height, width), (h, w) = raster, grid
    centres, exists = [], []
    for i in range(h):
        for j in range(w):
            own = [y * width + z for y in bins(height, h, i) for z in bins(width, w, j) if valid[y * width + z]]
            home = [p for p in range(len(x)) if (p // width * h // height, p % width * w // width) == (i, j)]
            exists.append(any(valid[p] for p in home))
            centres.append(x[own].mean(0) if own else torch.zeros_like(x[0]))
    for _ in range(iterations):
        assign = {}  # (centre, token) -> A
        for p in range(len(x)):
            if not valid[p]:
                continue
            y, z = p // width * h // height, p % width * w // width
            near = [
                i * w + j
                for i in range(h)
                for j in range(w)
                if abs(i - y) <= window // 2 and abs(j - z) <= window // 2 and exists[i * w + j]
            ]
            weights = softmax({i: -temperature * float(distance(x[p], centres[i])) for i in near})
            assign.update({(i, p): weight for i, weight in weights.items()})
        for i in range(h * w):
            mass = {p: weight for (centre, p), weight in assign.items() if centre == i}
            if sum(mass.values()) > 1e-12:
                centres[i] = sum(weight * x[p] for p, weight in mass.items()) / sum(mass.values())
    return torch.stack(centres), exists


def weights_by_loops(x, centres, neighbors, temperature, exists):
    """w ``(N, M)``: softmax over the k nearest centres."""
    out = torch.zeros(len(x), len(centres), dtype=x.dtype)
    for p in range(len(x)):
        squared = {i: float(distance(x[p], centres[i])) for i in range(len(centres)) if exists[i]}
        nearest = sorted(squared, key=squared.get)[:neighbors]
        for i, weight in softmax({i: -temperature * squared[i] for i in nearest}).items():
            out[p, i] = weight
    return out


def make(**kwargs):
    """A bound reducer that clusters before block 1."""
    reducer = Expedit(**dict(dict(layer=1), **kwargs))
    reducer.bind(HostInfo(depth=4, embed_dims=6, num_heads=2, out_indices=(3,)))
    return reducer


def reduce(x, raster, num_prefix=0, padding=None, **kwargs):
    """The state after clustering ``(B, P+N, C)``."""
    state = TokenState(x, raster, num_prefix, padding=padding)
    make(**kwargs).before(state, 1)
    return state


def restore_weights(state):
    """``(B, N, M)``, read off by restoring the unit vectors."""
    batch, count, _ = state.patches.shape
    return state.dense(torch.eye(count, dtype=state.x.dtype).expand(batch, -1, -1))


def make_tokens(raster, batch=2, dims=6):
    return torch.randn(batch, raster[0] * raster[1], dims)


@pytest.mark.parametrize('raster, grid, window, iterations, temperature, neighbors', CASES)
def test_equations(raster, grid, window, iterations, temperature, neighbors):
    x = make_tokens(raster)
    state = reduce(
        x, raster, grid=grid, window=window, iterations=iterations, temperature=temperature, neighbors=neighbors
    )
    assert state.raster == grid and state.patches.shape == (2, grid[0] * grid[1], 6)
    weights = restore_weights(state)
    for b in range(2):
        centres, exists = cluster_by_loops(x[b].double(), raster, grid, window, iterations, temperature)
        assert torch.allclose(state.patches[b].double(), centres, atol=1e-5)
        expected = weights_by_loops(x[b].double(), centres, neighbors, temperature, exists)
        assert torch.allclose(weights[b].double(), expected, atol=1e-5)
        assert ((weights[b] > 0).sum(1) <= neighbors).all()


def test_restored_tokens_are_the_weighted_sums_of_refined_centres():
    x = make_tokens((6, 6))
    state = reduce(x, (6, 6), grid=(3, 3), temperature=1.0, neighbors=4)
    weights = restore_weights(state)
    state.x = torch.randn_like(state.x)  # what the blocks made of the centres
    assert torch.allclose(state.dense(), weights @ state.x, atol=1e-6)


def test_clusters_gather_tokens_that_are_alike():
    """Two halves of unlike tokens, cut off the cell borders: each token comes back as its own half."""
    x = torch.zeros(1, 36, 6)
    x.view(6, 6, 6)[:, :3] = torch.eye(6)[0] * 4  # the middle column of the 3 centres straddles the border
    x.view(6, 6, 6)[:, 3:] = torch.eye(6)[1] * 4
    x = x + 0.01 * torch.randn_like(x)
    assert torch.allclose(reduce(x, (6, 6), grid=(3, 3)).dense(), x, atol=0.1)


def test_prefix_tokens_take_no_part():
    x = make_tokens((6, 6))
    prefix = torch.randn(2, 3, 6) * 50
    state = reduce(torch.cat([prefix, x], 1), (6, 6), num_prefix=3, grid=0.5)
    assert torch.equal(state.x[:, :3], prefix)
    assert torch.equal(state.patches, reduce(x, (6, 6), grid=0.5).patches)


def test_grid_as_a_ratio_follows_the_image():
    for raster, grid in [((8, 8), (4, 4)), ((6, 10), (3, 5)), ((9, 4), (4, 2)), ((1, 6), (1, 3))]:
        assert reduce(make_tokens(raster), raster, grid=0.5).raster == grid


def test_a_square_grid_on_an_image_that_is_not_square():
    state = reduce(make_tokens((4, 10)), (4, 10), grid=(4, 4))
    assert state.raster == (4, 4) and state.dense().shape == (2, 40, 6)


def test_a_grid_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match=r'reducer\.grid=\(5, 5\) is larger than.*4x10'):
        reduce(make_tokens((4, 10)), (4, 10), grid=(5, 5))


# ---------------------------------------------------------------------- the released code's defects, mended
@pytest.mark.parametrize('temperature', ['auto', 0.02, 1.0, 100.0])
@pytest.mark.parametrize('scale', [1e-3, 1.0, 1e3])
def test_constant_maps_come_back_as_they_are(temperature, scale):
    """Weights sum to one (the release takes their L2 norm) and do not underflow (it takes the exponential first)."""
    state = reduce(make_tokens((6, 8)) * scale, (6, 8), grid=0.5, temperature=temperature)
    ones = state.dense(torch.ones(2, 12, 2))
    assert torch.allclose(ones, torch.ones_like(ones), atol=1e-5)


def test_large_features_are_clustered_as_small_ones():
    """exp(−T·d²) of the release vanishes from d² = 103/T on; here d² goes up to ten millions."""
    x = make_tokens((6, 6))
    small = reduce(x, (6, 6), grid=0.5, temperature=1.0, neighbors=4)
    large = reduce(x * 1e3, (6, 6), grid=0.5, temperature=1e-6, neighbors=4)
    assert torch.allclose(large.patches / 1e3, small.patches, atol=1e-4)
    assert torch.allclose(restore_weights(large), restore_weights(small), atol=1e-3)


def test_what_all_tokens_have_in_common_costs_no_digits():
    """Products of tokens far from the origin would round off the distances between them."""
    x = make_tokens((6, 6))
    near, far = reduce(x, (6, 6), grid=0.5), reduce(x + 500, (6, 6), grid=0.5)
    assert torch.allclose(far.patches - 500, near.patches, atol=2e-3)
    assert torch.allclose(restore_weights(far), restore_weights(near), atol=2e-3)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('temperature', ['auto', 0.02])
def test_half_precision_with_features_whose_squares_overflow(dtype, temperature):
    x = make_tokens((6, 6)) * 500
    state = reduce(x.to(dtype), (6, 6), grid=0.5, temperature=temperature)
    assert state.x.dtype == dtype and state.x.isfinite().all()
    assert state.dense().dtype == dtype and state.dense().isfinite().all()
    exact = reduce(x.to(dtype).float(), (6, 6), grid=0.5, temperature=temperature)
    assert torch.allclose(state.x.float(), exact.x, rtol=1e-2, atol=4)


def test_autocast_does_not_reach_the_distances():
    x = make_tokens((6, 6)) * 300
    with torch.autocast('cpu', dtype=torch.bfloat16):
        state = reduce(x, (6, 6), grid=0.5)
    exact = reduce(x, (6, 6), grid=0.5)
    assert torch.equal(state.x, exact.x)
    assert torch.allclose(restore_weights(state), restore_weights(exact), atol=1e-6)


def padded_image(raster, bottom, right):
    padding = torch.zeros(raster, dtype=torch.bool)
    padding[raster[0] - bottom :] = True
    padding[:, raster[1] - right :] = True
    return padding.flatten()


@pytest.mark.parametrize(
    'raster, grid, bottom, right',
    [
        ((6, 6), (3, 3), 1, 3),
        ((7, 5), (3, 4), 4, 0),
        ((6, 8), (3, 4), 4, 5),  # whole cells of padding, and whole windows of them
    ],
)
def test_padding_takes_no_part(raster, grid, bottom, right):
    x = make_tokens(raster)
    padding = torch.stack([padded_image(raster, bottom, right), torch.zeros(raster[0] * raster[1], dtype=torch.bool)])
    args = dict(grid=grid, window=3, iterations=3, temperature=1.0, neighbors=4)
    state = reduce(x, raster, padding=padding, **args)
    weights = restore_weights(state)
    for b in range(2):
        valid = (~padding[b]).tolist()
        centres, exists = cluster_by_loops(x[b].double(), raster, grid, 3, 3, 1.0, valid)
        assert state.padding[b].tolist() == [not e for e in exists]
        assert torch.allclose(state.patches[b][exists].double(), centres[exists], atol=1e-5)
        expected = weights_by_loops(x[b].double(), centres, 4, 1.0, exists)
        assert torch.allclose(weights[b][valid].double(), expected[valid], atol=1e-5)
    assert torch.equal(state.patches[1], reduce(x[1:], raster, **args).patches[0])


@pytest.mark.parametrize('temperature', ['auto', 1.0])
def test_what_padded_patches_hold_does_not_matter(temperature):
    x, padding = make_tokens((6, 6)), padded_image((6, 6), 1, 3).expand(2, -1)
    state = reduce(x, (6, 6), padding=padding, grid=0.5, temperature=temperature)
    other = x.masked_fill(padding[..., None], 70.0)
    changed = reduce(other, (6, 6), padding=padding, grid=0.5, temperature=temperature)
    alive = ~state.padding
    assert torch.equal(changed.patches[alive], state.patches[alive])
    assert torch.equal(changed.dense()[~padding], state.dense()[~padding])
    without = reduce(other, (6, 6), grid=0.5, temperature=temperature)
    assert not torch.allclose(without.patches[alive], state.patches[alive], atol=1e-2), 'it matters without a mask'


def test_degenerate_images_stay_finite():
    """All padding, all the same, all zero; with a mask and without."""
    x = make_tokens((6, 6), batch=4)
    x[1], x[2] = 3.0, 0.0
    padding = torch.zeros(4, 36, dtype=torch.bool)
    padding[0], padding[1:3, 6:] = True, True
    for mask in (None, padding):
        x.requires_grad_().grad = None
        state = reduce(x, (6, 6), padding=mask, grid=0.5, window=1)
        assert state.x.isfinite().all() and state.dense().isfinite().all()
        state.dense().sum().backward()
        assert x.grad.isfinite().all()
    assert torch.allclose(reduce(x, (6, 6), grid=0.5).dense()[1:3], x[1:3], atol=1e-5)


def test_nothing_is_kept_on_the_module():
    reducer = make(grid=0.5, restore_at=3)
    before = copy.deepcopy(reducer.__dict__)
    x = make_tokens((6, 6))
    state = TokenState(x, (6, 6))
    for i in range(4):
        reducer.before(state, i), reducer.between(state, i), reducer.after(state, i)
    assert reducer.__dict__ == before and not list(reducer.buffers())


def test_two_images_may_be_under_way_at_once():
    reducer = make(grid=0.5, restore_at=3)
    one, two = TokenState(make_tokens((6, 6)), (6, 6)), TokenState(make_tokens((4, 8)), (4, 8))
    alone = [TokenState(state.x.clone(), state.grid) for state in (one, two)]
    for state in alone:
        reducer.before(state, 1), reducer.before(state, 3)
    reducer.before(one, 1), reducer.before(two, 1), reducer.before(one, 3), reducer.before(two, 3)
    assert torch.equal(one.x, alone[0].x) and torch.equal(two.x, alone[1].x)


# ---------------------------------------------------------------------- temperature='auto'
@pytest.mark.parametrize('factor', [1 / 30, 30, 1e3])
def test_auto_temperature_follows_the_scale_of_the_features(factor):
    x = make_tokens((6, 8))
    state, scaled = reduce(x, (6, 8), grid=0.5), reduce(x * factor, (6, 8), grid=0.5)
    assert torch.allclose(scaled.patches / factor, state.patches, atol=1e-4)
    assert torch.allclose(restore_weights(scaled), restore_weights(state), atol=1e-4)


def test_auto_temperature_is_neither_flat_nor_hard():
    """Noise alone must not be assigned at random, nor all alike."""
    weights = restore_weights(reduce(make_tokens((12, 12)), (12, 12), grid=0.5))
    perplexity = -(weights * weights.clamp(min=1e-12).log()).sum(-1).mean()
    assert 0.01 < perplexity < math.log(20) - 0.01


def test_auto_temperature_is_that_of_the_image_alone():
    x = make_tokens((6, 6), batch=3) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1)
    together = reduce(x, (6, 6), grid=0.5)
    for b in range(3):
        alone = reduce(x[b : b + 1], (6, 6), grid=0.5)
        assert torch.allclose(together.patches[b], alone.patches[0], rtol=1e-5, atol=1e-6)
        assert torch.allclose(restore_weights(together)[b], restore_weights(alone)[0], atol=1e-5)


def test_auto_temperature_is_deterministic():
    x = make_tokens((6, 6))
    one, two = reduce(x, (6, 6), grid=0.5), reduce(x.clone(), (6, 6), grid=0.5)
    assert torch.equal(one.x, two.x) and torch.equal(one.dense(), two.dense())


def test_temperature_says_how_hard_the_assignment_is():
    x = make_tokens((6, 6))
    hard = restore_weights(reduce(x, (6, 6), grid=0.5, temperature=1e4))
    assert torch.allclose(hard.amax(-1), torch.ones(2, 36), atol=1e-2)
    soft = restore_weights(reduce(x, (6, 6), grid=0.5, temperature=1e-6))
    assert torch.allclose(soft, torch.full_like(soft, 1 / 9), atol=1e-4)


# ---------------------------------------------------------------------- gradients
@pytest.mark.parametrize('temperature', [1.0, 10.0])
def test_gradient_flows_through_the_last_weighted_mean_only(temperature):
    x = make_tokens((5, 6), batch=1).requires_grad_()
    state = reduce(x, (5, 6), grid=(3, 3), window=3, iterations=3, temperature=temperature)
    weight = torch.randn_like(state.x)
    (state.x * weight).sum().backward()
    slow = x.detach().double()[0].requires_grad_()
    centres, _ = cluster_by_loops(slow, (5, 6), (3, 3), 3, 3, temperature)
    (centres * weight[0]).sum().backward()
    assert x.grad.abs().max() > 1e-3
    assert torch.allclose(x.grad[0].double(), slow.grad, atol=1e-5)


def test_a_constant_shift_has_gradient_one():
    """Columns of a weighted mean's gradient sum to one for each centre."""
    x = make_tokens((6, 6)).requires_grad_()
    reduce(x, (6, 6), grid=0.5).x.sum().backward()
    assert torch.allclose(x.grad.sum(1), torch.full((2, 6), 9.0), atol=1e-4)


# ---------------------------------------------------------------------- where it happens
def drive(reducer, state):
    """Token counts that each of the four blocks sees."""
    counts = []
    for i in range(4):
        reducer.before(state, i)
        counts.append(state.patches.shape[1])
        reducer.between(state, i)
        reducer.after(state, i)
    return counts


@pytest.mark.parametrize(
    'kwargs, counts',
    [
        (dict(layer=0), [9, 9, 9, 9]),
        (dict(layer=2), [36, 36, 9, 9]),
        (dict(layer=3), [36, 36, 36, 9]),
        (dict(layer=1, restore_at=2), [36, 9, 36, 36]),
        (dict(layer=0, restore_at=3), [9, 9, 9, 36]),
    ],
)
def test_blocks_that_see_fewer_tokens(kwargs, counts):
    state = TokenState(make_tokens((6, 6)), (6, 6))
    assert drive(make(grid=0.5, **kwargs), state) == counts
    assert state.dense().shape == (2, 36, 6)
    assert bool(state.trail) == ('restore_at' not in kwargs)


def test_restore_at_gives_the_next_blocks_the_full_grid():
    x = make_tokens((6, 6))
    state, kept = TokenState(x, (6, 6)), TokenState(x.clone(), (6, 6))
    drive(make(grid=0.5, restore_at=3), state)
    drive(make(grid=0.5), kept)
    assert torch.equal(state.patches, kept.dense()) and state.raster == (6, 6)
    assert torch.equal(state.sizes, torch.ones(1, 36))


def test_coords_and_sizes_of_the_centres():
    state = reduce(make_tokens((6, 8), batch=1), (6, 8), grid=(3, 2))
    assert state.coords.tolist() == [[[y, x] for y in (0.5, 2.5, 4.5) for x in (1.5, 5.5)]]
    # A centre stands for the patches that are rebuilt from it, in parts.
    torch.testing.assert_close(state.sizes, state.trail[-1].restore.weights.sum(1))
    torch.testing.assert_close(state.sizes.sum(), torch.tensor(48.0))
    assert state.layout.key_bias is None


def test_proportional_attention_weighs_centres_by_the_patches_rebuilt_from_them():
    padding = torch.zeros(1, 48, dtype=torch.bool)
    padding[:, -8:] = True
    state = reduce(make_tokens((6, 8), batch=1), (6, 8), grid=(3, 2), proportional=True)
    torch.testing.assert_close(state.layout.key_bias[:, -6:], state.sizes.log())
    state.restore()
    assert state.layout.key_bias is None and state.sizes.tolist() == [[1.0] * 48]
    padded = reduce(make_tokens((6, 8), batch=1), (6, 8), grid=(3, 2), proportional=True, padding=padding)
    torch.testing.assert_close(padded.sizes.sum(), torch.tensor(40.0))


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(window=4), r'window=4.*odd'),
        (dict(window=-1), r'window=-1.*at least 1'),
        (dict(iterations=0), r'iterations=0 must be an integer in \[1, 1000\]'),
        (dict(neighbors=0), r'neighbors=0.*at least 1'),
        (dict(temperature=0), r'temperature=0 must be a number above 0'),
        (dict(temperature='cold'), r"temperature='cold' must be 'auto'"),
        (dict(restore='logits'), r"restore='logits' is unknown; choose one of 'feature', 'late'"),
        (dict(grid=1.5), r'grid=1.5 is outside \(0, 1\]'),
        (dict(layer=4), r'reducer\.layer=4.*0 to 3'),
        (dict(layer=2, restore_at=2), r'reducer\.restore_at=2 must come after layer=2'),
        (dict(layer=2, restore_at=7), r'reducer\.restore_at=7.*0 to 3'),
        (dict(restore='late', restore_at=3), r"restore='late'"),
    ],
)
def test_arguments_that_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**dict(dict(grid=0.5), **kwargs))


def test_late_restore_needs_every_output_on_the_centres():
    reducer = Expedit(layer=2, grid=0.5, restore='late')
    with pytest.raises(ValueError, match="restore='late'.*out_indices from 2 on"):
        reducer.bind(HostInfo(depth=4, embed_dims=6, num_heads=2, out_indices=(1, 3)))
    reducer.bind(HostInfo(depth=4, embed_dims=6, num_heads=2, out_indices=(2, 3)))
