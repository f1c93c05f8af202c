"""TokenState: the trail of restores and the bookkeeping that goes with it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mmtoken.core import Gather, Interpolate, Layout, Scatter, TokenState, WeightedSum

GRID = (3, 4)
N = 12


def make_state(batch=2, prefix=2, dims=5, **kwargs):
    return TokenState(torch.randn(batch, prefix + N, dims), GRID, prefix, **kwargs)


def merge(state, index, count):
    """Merges patch tokens by a map ``(B, n)`` into ``count`` means weighted by size, as a merging method would."""
    one_hot = F.one_hot(index, count).float()  # (B, n, M)
    sizes = state.sizes.expand(index.shape[0], -1)
    total = torch.einsum('bnm,bn->bm', one_hot, sizes)

    def mean(values):
        return torch.einsum('bnm,bn,bnc->bmc', one_hot, sizes, values.expand(index.shape[0], -1, -1)) / total[..., None]

    state.reduce(mean(state.patches), Gather(index), coords=mean, sizes=total)


def surjection(batch, n, count):
    """A random map of n tokens onto all of ``count`` groups, another for each image."""
    return torch.stack(
        [torch.cat([torch.arange(count), torch.randint(count, (n - count,))])[torch.randperm(n)] for _ in range(batch)]
    )


def test_a_new_state_is_its_own_dense_grid():
    state = make_state()
    assert state.raster == GRID
    assert torch.equal(state.dense(), state.x[:, 2:])
    assert torch.equal(state.patches, state.x[:, 2:])
    assert torch.equal(state.cls, state.x[:, 0])
    assert state.layout.key_bias is None


def test_coords_and_sizes_of_the_full_grid():
    state = make_state()
    expected = [[y, x] for y in range(GRID[0]) for x in range(GRID[1])]
    assert state.coords.tolist() == [expected]
    assert state.sizes.tolist() == [[1.0] * N]


def test_restores_run_last_in_first_out():
    state = make_state(prefix=1)
    prefix = state.x[:, :1].clone()
    first = torch.randn(2, 6, 5)
    weights = torch.rand(2, N, 6)
    state.reduce(first, WeightedSum(weights), coords=lambda c: c[:, :6], sizes=None, raster=(2, 3))
    index = surjection(2, 6, 3)
    second = torch.randn(2, 3, 5)
    state.reduce(second, Gather(index), coords=lambda c: c[:, :3], sizes=None)
    assert state.raster is None and len(state.trail) == 2

    middle = torch.stack([second[b, index[b]] for b in range(2)])
    full = torch.stack([weights[b] @ middle[b] for b in range(2)])
    assert torch.allclose(state.dense(), full, atol=1e-6)
    assert len(state.trail) == 2 and torch.equal(state.patches, second), 'dense() must not pop the trail'

    state.restore()
    assert torch.equal(state.patches, middle) and state.raster == (2, 3)
    assert torch.allclose(state.dense(), full, atol=1e-6)
    state.restore()
    assert torch.allclose(state.patches, full, atol=1e-6) and state.raster == GRID and not state.trail
    assert torch.equal(state.x[:, :1], prefix)


def test_restore_brings_the_bookkeeping_back():
    padding = torch.zeros(2, N, dtype=torch.bool)
    padding[1, 9:] = True
    state = make_state(padding=padding)
    index = surjection(2, N, 6)
    merge(state, index, 6)
    state.layout = state.layout.padded(torch.zeros(2, 6, dtype=torch.bool))
    coords, sizes, inner = state.coords, state.sizes, state.padding
    merge(state, surjection(2, 6, 4), 4)
    assert state.padding is None and state.sizes.shape == (2, 4) and state.coords.shape == (2, 4, 2)
    state.restore()
    assert torch.equal(state.coords, coords) and torch.equal(state.sizes, sizes) and state.padding is inner
    state.restore()
    assert state.padding is padding
    assert torch.equal(state.sizes, torch.ones(1, N)) and state.coords.shape == (1, N, 2)


def test_new_tokens_that_are_refined_come_back_refined():
    state = make_state(prefix=1)
    index = surjection(2, N, 5)
    merge(state, index, 5)
    state.x = state.x * 2 + 1  # what blocks do
    expected = torch.stack([state.patches[b, index[b]] for b in range(2)])
    assert torch.equal(state.dense(), expected)


def test_coords_and_sizes_through_several_merges():
    """Means weighted by size equal the plain mean over all the patches that a token stands for."""
    state = make_state(prefix=1)
    full = state.coords
    group = torch.arange(N).expand(2, -1)
    for count in (9, 6, 2):
        index = surjection(2, state.patches.shape[1], count)
        merge(state, index, count)
        group = torch.stack([index[b, group[b]] for b in range(2)])
    for b in range(2):
        for token in range(2):
            members = (group[b] == token).nonzero().flatten()
            assert state.sizes[b, token] == len(members)
            assert torch.allclose(state.coords[b, token], full[0, members].mean(0), atol=1e-5)
    assert torch.equal(state.sizes.sum(1), torch.full((2,), float(N)))


def test_coords_are_made_only_on_demand():
    asked = []

    def coords(old):
        asked.append(old.shape)
        return old[:, :4]

    state = make_state()
    state.reduce(torch.randn(2, 4, 5), Gather(surjection(2, N, 4)), coords=coords, sizes=lambda: torch.ones(1, 4))
    state.dense()
    assert not asked
    assert torch.equal(state.coords, state.coords) and asked == [(1, N, 2)], 'asked once, with those before'


@pytest.mark.parametrize('shapes', [(2, 2), (1, 2), (2, 1), (1, 1)])
def test_two_gathers_fold_into_one(shapes):
    earlier, later = Gather(surjection(shapes[0], 8, 6)), Gather(surjection(shapes[1], 6, 3))
    x = torch.randn(2, 3, 5)
    assert torch.equal(later.after(earlier).patches(x), earlier.patches(later.patches(x)))


def test_dense_equals_restore_by_restore():
    """Folded gathers, with a weighted sum among them and prefix tokens in front."""
    for prefix in (0, 1, 3):
        state = make_state(prefix=prefix)
        merge(state, surjection(2, N, 10), 10)
        merge(state, surjection(1, 10, 8).expand(2, -1), 8)
        state.reduce(torch.randn(2, 6, 5), WeightedSum(torch.rand(2, 8, 6)), coords=lambda c: c, sizes=torch.ones(2, 6))
        merge(state, surjection(2, 6, 4), 4)
        merge(state, surjection(2, 4, 3), 3)
        dense = state.dense()
        values = torch.randn(2, 3, 7)
        dense_values, slow = state.dense(values), values
        for reduction in reversed(state.trail):
            slow = reduction.restore(slow, 0)
        while state.trail:
            state.restore()
        assert torch.allclose(dense, state.patches, atol=1e-6)
        assert torch.allclose(dense_values, slow, atol=1e-6) and slow.shape == (2, N, 7)


def test_dense_passes_over_the_features_once_for_all_merges(monkeypatch):
    state = make_state()
    for count in (9, 6, 2):
        merge(state, surjection(2, state.patches.shape[1], count), count)
    widths = []
    patches = Gather.patches
    monkeypatch.setattr(Gather, 'patches', lambda self, x: widths.append(x.shape) or patches(self, x))
    state.dense()
    assert widths == [(2, 2, 5)]


def test_weighted_sum_keeps_the_dtype_of_the_tokens():
    x = torch.randn(2, 3, 5, dtype=torch.bfloat16)
    assert WeightedSum(torch.rand(2, 6, 3)).patches(x).dtype == torch.bfloat16


@pytest.mark.parametrize('mode', ['bilinear', 'nearest'])
def test_interpolate_is_that_of_maps(mode):
    x = torch.randn(2, 6, 5)
    maps = x.transpose(1, 2).reshape(2, 5, 2, 3)
    expected = F.interpolate(maps, (5, 4), mode=mode, align_corners=False if mode == 'bilinear' else None)
    out = Interpolate((2, 3), (5, 4), mode).patches(x)
    assert torch.equal(out, expected.flatten(2).transpose(1, 2))


def test_key_bias_is_the_log_of_sizes_and_spares_the_prefix():
    state = make_state(prefix=2)
    merge(state, torch.tensor([[0] * 7 + [1] * 5, [0] * 11 + [1]]), 2)
    assert state.layout.key_bias is None
    state.layout = replace(state.layout, proportional=True)
    expected = torch.tensor([[1, 1, 7, 5], [1, 1, 11, 1.0]]).log()
    assert torch.allclose(state.layout.key_bias, expected)


# ---------------------------------------------------------------------- ragged batches
def keep_mask():
    keep = torch.zeros(3, N, dtype=torch.bool)
    keep[0, [0, 3, 4, 11]] = True
    keep[1] = True
    return keep  # the third image keeps its prefix only


def test_select_packs_each_image_in_raster_order():
    state = make_state(batch=3)
    before, keep = state.x.clone(), keep_mask()
    state.select(keep)
    assert state.lengths.tolist() == [6, 14, 2]
    expected = torch.cat([torch.cat([before[b, :2], before[b, 2:][keep[b]]]) for b in range(3)])
    assert torch.equal(state.x, expected)
    assert torch.equal(state.cls, before[:, 0])
    assert state.raster is None


def test_selected_tokens_go_back_and_dropped_ones_come_back_as_saved():
    state = make_state(batch=3)
    before, keep = state.x.clone(), keep_mask()
    state.select(keep)
    state.x = state.x + 100
    expected = before.clone()
    expected[:, :2] += 100
    expected[:, 2:][keep] += 100
    assert torch.equal(state.dense(), expected[:, 2:])
    assert state.lengths is not None, 'dense() must not pop'
    state.restore()
    assert torch.equal(state.x, expected)
    assert state.lengths is None and state.raster == GRID


def test_select_inside_a_merge():
    state = make_state(batch=3, prefix=1)
    index = surjection(3, N, 6)
    merge(state, index, 6)
    merged = state.x.clone()
    keep = torch.rand(3, 6) > 0.5
    state.select(keep)
    state.x = -state.x
    expected = merged.clone()
    expected[:, 1:][keep] *= -1
    full = torch.stack([expected[b, 1:][index[b]] for b in range(3)])
    assert torch.equal(state.dense(), full)
    state.restore()
    assert state.sizes.shape == (3, 6)
    state.restore()
    assert torch.equal(state.patches, full)


def test_select_carries_gradients_to_kept_and_dropped_tokens():
    x = torch.randn(3, 2 + N, 5, requires_grad=True)
    state = TokenState(x, GRID, 2)
    keep = keep_mask()
    state.select(keep)
    state.x = state.x * 3
    state.dense().sum().backward()
    assert torch.equal(x.grad[:, 2:, 0], torch.where(keep, 3.0, 1.0))
    assert torch.equal(x.grad[:, :2], torch.zeros(3, 2, 5))


def test_a_ragged_batch_is_selected_again():
    state = make_state(batch=3)
    state.x = state.x.round()  # sums of whole numbers are exact
    before, first = state.x.clone(), keep_mask()
    state.select(first, owner='first')
    state.x = state.x + 100
    again = torch.arange(int(first.sum())) % 3 == 0  # of the packed patches
    state.select(again, owner='second')
    state.x = state.x + 1000
    kept = torch.zeros_like(first).masked_scatter(first, again)
    assert state.lengths.tolist() == [2 + int(kept[b].sum()) for b in range(3)]
    expected = before.clone()
    expected[:, :2] += 1100
    expected[:, 2:] += 100 * first[..., None] + 1000 * kept[..., None]
    assert torch.equal(state.dense(), expected[:, 2:])
    assert torch.equal(state.patches, expected[:, 2:][kept])
    state.restore('second')
    assert torch.equal(state.patches, expected[:, 2:][first]) and state.packing is not None
    state.restore('first')
    assert torch.equal(state.x, expected) and state.raster == GRID


@pytest.mark.parametrize('prefix', [0, 2])
def test_bookkeeping_of_a_ragged_batch(prefix):
    """Centres, sizes and the bias of proportional attention are those of the tokens that went on."""
    state = make_state(batch=3, prefix=prefix)
    coords, sizes = torch.randn(3, N, 2), torch.rand(3, N) + 1
    state.reduce(state.patches, Gather(torch.arange(N)[None]), coords=lambda _: coords, sizes=sizes, proportional=True)
    keep = keep_mask()
    state.select(keep)
    again = torch.arange(int(keep.sum())) % 2 == 0
    state.select(again)
    kept = torch.zeros_like(keep).masked_scatter(keep, again)
    assert torch.equal(state.coords, coords[kept]) and torch.equal(state.sizes, sizes[kept])
    assert torch.equal(
        state.layout.key_bias, torch.cat([F.pad(sizes[b][kept[b]].log(), (prefix, 0)) for b in range(3)])
    )
    state.restore()
    state.restore()
    assert torch.equal(state.coords, coords) and state.layout.key_bias.shape == (3, prefix + N)


def test_scatters_fold_into_one():
    """Chains of exits cost one pass at a tap, as chains of merges do."""
    state = make_state(batch=3)
    before = state.x.clone()
    keep = keep_mask()
    for _ in range(3):
        state.select(keep)
        state.x = state.x + 1
        keep = torch.rand(len(state.patches)) > 0.3
    passes = []
    last = state.trail[-1].restore
    full = Scatter.full
    both = last.after(state.trail[-2].restore)
    assert isinstance(both, Scatter) and len(both.saved) == 2
    Scatter.full = lambda self, x, p: passes.append(self) or full(self, x, p)
    try:
        dense = state.dense()
    finally:
        Scatter.full = full
    while state.trail:
        state.restore()
    assert len(passes) == 1 and torch.equal(dense, state.patches) and not torch.equal(dense, before[:, 2:])


def test_padding_goes_on_with_its_tokens():
    padding = torch.zeros(3, N, dtype=torch.bool)
    padding[0, 11] = padding[1, 2] = True
    state, keep = make_state(batch=3, padding=padding), keep_mask()
    state.select(keep)
    assert torch.equal(state.padding, padding[keep])
    again = torch.arange(int(keep.sum())) % 2 == 1
    state.select(again)
    assert torch.equal(state.padding, padding[keep][again])
    state.restore()
    assert torch.equal(state.padding, padding[keep])


def test_reducing_a_ragged_batch_is_refused_in_one_line():
    state = make_state(batch=3)
    state.select(keep_mask())
    for act in (lambda: state.reduce(state.patches, Gather(torch.zeros(1, 3))), lambda: state.keep(torch.zeros(3, 1))):
        with pytest.raises(ValueError, match='equally many tokens in each image'):
            act()


# ---------------------------------------------------------------------- a static subset
@pytest.mark.parametrize('prefix', [0, 2])
def test_keep_takes_equally_many_tokens_and_saves_the_others(prefix):
    padding = torch.rand(2, N) > 0.7
    state = make_state(prefix=prefix, padding=padding)
    before = state.x.clone()
    index = torch.stack([torch.randperm(N)[:5].sort()[0] for _ in range(2)])
    state.keep(index, owner='me')
    rows = torch.arange(2)[:, None]
    assert torch.equal(state.patches, before[:, prefix:][rows, index])
    assert torch.equal(state.padding, padding[rows, index]) and state.raster is None
    assert torch.equal(state.coords, make_state().coords.expand(2, -1, -1)[rows, index])
    assert torch.equal(state.sizes, torch.ones(2, 5))
    assert state.trail[-1].restore.saved[0].shape == (2, N - 5, 5), 'only dropped tokens are saved'
    state.x = state.x + 100
    expected = before.clone()
    expected[:, :prefix] += 100
    for b in range(2):
        expected[b, prefix + index[b]] += 100
    assert torch.equal(state.dense(), expected[:, prefix:])
    state.restore('me')
    assert torch.equal(state.x, expected) and state.raster == GRID


def test_keep_merge_and_keep_again_fold_into_one_pass(monkeypatch):
    state = make_state()
    state.keep(torch.stack([torch.randperm(N)[:9].sort()[0] for _ in range(2)]))
    state.x = state.x * 2
    merge(state, surjection(2, 9, 6), 6)
    state.x = state.x * 2
    state.keep(torch.tensor([[0, 2, 3], [1, 2, 5]]))
    state.x = state.x * 2
    seen, patches = [], Gather.patches
    monkeypatch.setattr(Gather, 'patches', lambda self, x: seen.append(x.shape) or patches(self, x))
    dense = state.dense()
    assert len(seen) == 1
    while state.trail:
        state.restore()
    assert torch.equal(dense, state.patches)


def test_values_of_another_width_cannot_come_back_beside_saved_tokens():
    state = make_state()
    state.keep(torch.tensor([[0, 2, 3], [1, 2, 5]]))
    with pytest.raises(ValueError, match='5 channels.*7 channels'):
        state.dense(torch.randn(2, 3, 7))


# ---------------------------------------------------------------------- other beginnings
def test_a_stem_of_other_tokens_says_how_to_restore():
    """Coarse and fine tokens in unequal numbers: through replace() they come back, without it there is an error."""
    state = make_state(prefix=0)
    layout = state.layout.reduced(make_coords=torch.zeros(1, 3, 2), make_sizes=torch.ones(1, 3))
    state.replace(torch.randn(2, 3, 5), Gather(torch.arange(N)[None] % 3), layout)
    assert state.dense().shape == (2, N, 5)
    lost = make_state(prefix=0)
    lost.x, lost.layout = torch.randn(2, 3, 5), layout
    with pytest.raises(ValueError, match=r'state\.replace'):
        lost.dense()


def test_without_a_prefix_there_is_no_class_token():
    with pytest.raises(ValueError, match='with_cls_token'):
        _ = make_state(prefix=0).cls


def test_a_layout_of_no_raster_guesses_nothing():
    layout = Layout(GRID)
    for name in ('coords', 'sizes'):
        with pytest.raises(ValueError, match='make_coords'):
            getattr(layout, name)


def test_a_coarse_raster_has_its_centres_and_sizes():
    layout = Layout((4, 6), raster=(2, 3))
    assert layout.coords[0, 0].tolist() == [0.5, 0.5] and layout.coords[0, -1].tolist() == [2.5, 4.5]
    assert layout.sizes.tolist() == [[4.0] * 6]


# ---------------------------------------------------------------------- several reducers on one trail
def test_a_reducer_undoes_its_own_and_what_came_after():
    state = make_state()
    state.reduce(torch.randn(2, 6, 5), WeightedSum(torch.rand(2, N, 6)), coords=lambda c: c, sizes=None, owner='one')
    for count in (5, 3):
        state.reduce(
            torch.randn(2, count, 5),
            Gather(surjection(2, state.patches.shape[1], count)),
            coords=lambda c: c,
            sizes=None,
            owner='two',
        )
    state.reduce(torch.randn(2, 2, 5), Gather(surjection(2, 3, 2)), coords=lambda c: c, sizes=None)
    state.restore('nobody')
    assert len(state.trail) == 4
    state.restore('two')
    assert len(state.trail) == 2, 'its last one, and what came after it'
    full = state.dense()
    state.restore('one')
    assert not state.trail and state.raster == GRID and torch.equal(state.patches, full)
    state.restore('one')
    assert torch.equal(state.patches, full), 'nothing left to undo'


@pytest.mark.parametrize('between', ['merge', 'mix'])
def test_all_reductions_of_a_reducer_are_undone_at_once(monkeypatch, between):
    """With what others did in between; dropped tokens come back as they left, and one map does it where it can."""
    state, calls = make_state(), []
    merge(state, surjection(2, N, 10), 10)
    whole, layout = state.x.clone(), state.layout
    state.rejoin('me')
    assert torch.equal(state.x, whole), 'it made none yet'
    state.keep(torch.tensor([[0, 1, 3, 4, 6, 8, 9], [1, 2, 3, 5, 6, 7, 8]]), 'me')
    state.x = state.x + 1
    if between == 'merge':
        merge(state, surjection(2, 7, 5), 5)
    else:  # no map of rows to rows
        state.reduce(state.patches[:, :5], WeightedSum(torch.rand(2, 7, 5)), coords=lambda c: c[:, :5], sizes=None)
    state.keep(torch.tensor([[0, 2], [1, 4]]), 'me')
    slow = state.x
    for reduction in reversed(state.trail[1:]):
        slow = reduction.restore(slow, state.num_prefix)
    patches = Gather.patches
    monkeypatch.setattr(Gather, 'patches', lambda self, x: calls.append(self) or patches(self, x))
    state.rejoin('me')
    assert torch.equal(state.x, slow) and state.layout is layout and len(state.trail) == 1
    assert len(calls) == (1 if between == 'merge' else 2)
    assert torch.equal(state.patches[0, [2, 5, 7]], whole[0, 2:][[2, 5, 7]])


def test_keys_of_other_tokens_are_not_kept():
    state = make_state()
    state.keys = torch.randn(2, 2 + N, 1, 5)
    merge(state, surjection(2, N, 6), 6)
    assert state.keys is None
