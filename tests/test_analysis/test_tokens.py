"""What becomes of patches, and pictures of it."""

import numpy as np
import pytest
import torch

from mmtoken.analysis import average_groups, colorize_groups, overlay_groups, tokens, trace_tokens
from mmtoken.testing import DEPTH, PATCH, toy_hosts

#: Of one stage, so that each block has the same grid.
HOSTS = {name: make for name, make in toy_hosts().items() if len(make().info().stages) == 1}
GRID = (5, 9)


@pytest.mark.parametrize('width', [5, 13, 21, 34])
def test_neighbours_differ_clearly_and_colours_do_not_depend_on_numbers(width):
    index = np.arange(8 * width).reshape(8, width) // 2
    colors = colorize_groups(index)
    assert colors.shape == (8, width, 3) and colors.dtype == np.uint8
    for axis in (0, 1):
        change = np.diff(index, axis=axis) != 0
        distance = np.abs(np.diff(colors.astype(int), axis=axis)).sum(-1)
        assert distance[change].min() > 60
        assert not distance[~change].any()
    np.testing.assert_array_equal(colors, colorize_groups(index * 7 - 100))


def test_groups_in_many_pieces_keep_one_colour():
    colors = colorize_groups(np.array([[0, 1, 0], [2, 0, 2]]))
    assert (colors[0, 0] == colors[0, 2]).all() and (colors[0, 0] == colors[1, 1]).all()
    assert len(np.unique(colors.reshape(-1, 3), axis=0)) == 3


def test_overlay_draws_borders_and_nothing_else():
    image = np.full((40, 63, 3), 100, np.uint8)
    index = np.array([[0, 0, 1], [2, 2, 1]])
    out = overlay_groups(image, index)
    assert out.shape == (40, 60, 3)
    white = (out == 255).all(-1)
    assert white[20, :40].all() and white[:, 40].all()
    assert white.sum() == 40 + 40 - 0 and (out[~white] == 100).all()
    mixed = overlay_groups(image, index, alpha=1.0)
    assert (mixed[5, 5] == colorize_groups(index)[0, 0]).all()


def test_one_group_has_no_border():
    image = np.zeros((8, 8, 3), np.uint8)
    assert not overlay_groups(image, np.zeros((2, 2), int)).any()


def test_groups_get_their_mean_colour():
    image = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)  # 2 pixels a patch
    index = np.array([[5, 5, 3, 9, 9, -1]] * 2 + [[5, 2, 2, 2, 9, -1]] * 2)
    out, groups = average_groups(image, index), index.repeat(2, 0).repeat(2, 1)
    for group in (5, 3, 9, 2):
        inside = groups == group
        np.testing.assert_allclose(out[inside], np.tile(image[inside].mean(0), (inside.sum(), 1)), atol=1)
    np.testing.assert_array_equal(out[groups == -1], image[groups == -1])


# ---------------------------------------------------------------------- following tokens through a backbone
def run(reducer, host='TokenDINOv2', batch=2, seed=0):
    """The trace of a toy host, and its states as every block's MLP met them."""
    torch.manual_seed(seed)
    model = HOSTS[host](size=(20, 36), reducer=reducer)
    pictures = torch.randn(batch, 3, GRID[0] * PATCH, GRID[1] * PATCH)
    with torch.no_grad(), trace_tokens(model) as trace:
        model(torch.zeros_like(pictures))  # of several runs, the last
        outs = model(pictures)
    assert not model.watchers
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(outs, model(pictures)))
    assert len(trace.index) == len(trace.counts) == DEPTH
    assert all(index.shape == (batch, *GRID) for index in trace.index)
    totals = [int(counts.sum()) for counts in trace.counts]
    assert totals == pytest.approx([count * batch for count in model.token_counts(pictures)])
    return trace, model, pictures


@pytest.mark.parametrize('host', list(HOSTS))
def test_pooled_patches_share_the_token_of_their_cell(host):
    trace, *_ = run(dict(type='mmtoken.AvgPool', layer=2, grid=(5, 3), mode='nearest'), host)
    everyone = np.arange(45).reshape(GRID)
    cells = np.arange(5)[:, None] * 3 + np.arange(9) // 3
    for i, index in enumerate(trace.index):
        np.testing.assert_array_equal(index, [everyone if i < 2 else cells] * 2)
    assert trace.changes() == [2] and [c.tolist() for c in trace.counts] == [[45] * 2] * 2 + [[15] * 2] * 2


@pytest.mark.parametrize('chunk', [7, 1024])
def test_clustered_patches_share_the_centre_with_the_largest_weight(monkeypatch, chunk):
    monkeypatch.setattr(tokens, '_CHUNK', chunk)
    trace, model, pictures = run(dict(type='mmtoken.Expedit', layer=1, grid=0.5, neighbors=4, restore_at=3))
    weights = []
    reduce = model.reducer.pool

    def pool(*args):
        made = reduce(*args)
        weights.append(made[1])
        return made

    model.reducer.pool = pool
    with torch.no_grad():
        model(pictures)
    nearest = weights[0].weights.argmax(-1, keepdim=True)
    expected = weights[0].index.gather(-1, nearest).reshape(2, *GRID).numpy()
    np.testing.assert_array_equal(trace.index[1], expected)
    np.testing.assert_array_equal(trace.index[2], expected)
    np.testing.assert_array_equal(trace.index[3], trace.index[0])
    assert trace.changes() == [1, 3]


def test_merged_patches_share_the_token_that_one_by_one_merging_finds(monkeypatch):
    from mmtoken.methods.tome import reducer as tome

    plans = []

    def merge_plan(source, target, n):
        plans.append((source, target, n))
        return plan(source, target, n)

    plan = tome.merge_plan
    monkeypatch.setattr(tome, 'merge_plan', merge_plan)
    trace, *_ = run(dict(type='mmtoken.ToMe', r=8), batch=3)
    groups = [[[[p] for p in range(45)] for _ in range(3)]]
    for source, target, n in plans[-DEPTH:]:
        groups.append([])
        for b in range(3):
            now = [list(group) for group in groups[-2][b]]
            assert len(now) == n
            for a, into in zip(source[b].tolist(), target[b].tolist()):
                now[into] += groups[-2][b][a]
            groups[-1].append([now[i] for i in range(n) if i not in source[b].tolist()])
    for i, images in enumerate(groups[1:]):
        for b, image in enumerate(images):
            expected = np.empty(45, int)
            for number, patches in enumerate(image):
                expected[patches] = number
            np.testing.assert_array_equal(trace.index[i][b].ravel(), expected)
    assert trace.changes() == [0, 1, 2, 3]


def goes_on(x, part):
    """The rule of the toy method: tokens ``(n, C)`` that go on."""
    length = x.norm(dim=-1)
    return (length > part * length.mean()).numpy()


@pytest.mark.parametrize('host', ['TokenDINOv2', 'TokenVisionTransformer'])
def test_tokens_that_leave_are_told_apart_from_those_that_stay(host, loud):
    trace, model, pictures = run(dict(type='mmtoken.Loud', part=1.0, layer=2), host, batch=3)
    stopped = []
    model.reducer.before = lambda state, i: stopped.append(state.patches.clone()) if i == 2 else None
    with torch.no_grad():
        model(pictures)
    for b, x in enumerate(stopped[0]):
        keep = goes_on(x, 1.0)
        for i in (2, 3):
            expected = np.where(keep, keep.cumsum() - 1, -1).reshape(GRID)
            np.testing.assert_array_equal(trace.index[i][b], expected)
            np.testing.assert_array_equal(trace.left(i)[b], np.where(keep, -1, 2).reshape(GRID))
            assert trace.counts[i][b] == keep.sum()
    assert (trace.left(1) == -1).all() and len({int(n) for n in trace.counts[2]}) > 1


def test_stacked_reductions_and_tokens_that_come_back(loud):
    """Pooled first; of the pooled tokens some leave; at block 3 all are back."""
    trace, model, pictures = run(
        [
            dict(type='mmtoken.AvgPool', layer=1, grid=(5, 3), mode='nearest', restore_at=3),
            dict(type='mmtoken.Loud', part=1.0, layer=2),
        ]
    )
    cells = (np.arange(5)[:, None] * 3 + np.arange(9) // 3).ravel()
    stopped = []
    model.reducer.reducers[1].before = lambda state, i: stopped.append(state.patches.clone()) if i == 2 else None
    with torch.no_grad():
        model(pictures)
    for b, x in enumerate(stopped[0]):
        keep = goes_on(x, 1.0)
        place = np.where(keep, keep.cumsum() - 1, -1)
        np.testing.assert_array_equal(trace.index[2][b].ravel(), place[cells])
        np.testing.assert_array_equal(trace.left(2)[b].ravel(), np.where(keep[cells], -1, 2))
    np.testing.assert_array_equal(trace.index[3], np.broadcast_to(np.arange(45).reshape(GRID), (2, *GRID)))
    assert (trace.left(3) == -1).all() and trace.changes() == [1, 2, 3]


@pytest.mark.parametrize('method', ['DoViT', 'DToP'])
def test_tokens_that_leave_at_several_exits(method):
    """The method's own record says at which exit each token left."""
    heads = dict(type='mmseg.FCNHead', num_convs=0, channels=32, concat_input=False, num_classes=3)
    torch.manual_seed(0)
    model = HOSTS['TokenDINOv2'](
        size=(20, 36), reducer=dict(type=f'mmtoken.{method}', heads=heads, exits=(0, 2), threshold=(0.75, 0.6))
    )
    model.served = True
    with torch.no_grad(), trace_tokens(model) as trace:
        state = model.forward_tokens(torch.randn(3, 3, GRID[0] * PATCH, GRID[1] * PATCH))[1]
    left = state.aux[model.reducer].left.reshape(3, *GRID).numpy()
    assert {0, 1, 2} == set(left.ravel())
    blocks = np.array([1, 3, DEPTH])[left]  # the first block that a token does not enter
    for i in range(DEPTH):
        np.testing.assert_array_equal(trace.left(i), np.where(blocks <= i, blocks, -1))
        for b in range(3):
            stay = blocks[b] > i
            expected = np.where(stay, stay.cumsum().reshape(GRID) - 1, -1)
            np.testing.assert_array_equal(trace.index[i][b], expected)
            assert trace.counts[i][b] == stay.sum()


def test_a_picture_that_loses_every_token(loud):
    trace, *_ = run(dict(type='mmtoken.Loud', part=9.0))
    assert (trace.index[1] == -1).all() and trace.counts[1].tolist() == [0, 0] and (trace.left(3) == 1).all()
