"""Windowed attention against plain loops over images, windows and tokens."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from mmtoken.core import Packing, assign_windows, attention, read_bias, rotary_eva02, window_attention
from mmtoken.core.ops import grid_coords

HEADS, WIDTH = 2, 4
#: Grid, window, shift: dividing and not, odd, oblong, shifted, a window larger than the grid.
PLANES = [
    ((8, 8), 4, 0),
    ((8, 8), 4, 2),
    ((7, 9), 4, 0),
    ((7, 9), 3, 1),
    ((5, 11), (2, 3), (1, 2)),
    ((6, 10), (3, 5), 0),
    ((3, 4), 7, 3),
    ((9, 1), 2, 1),
]


def close(a, b, tolerance=1e-5):
    return torch.allclose(a.double(), b.double(), atol=tolerance, rtol=tolerance)


def pair(n):
    return (n, n) if isinstance(n, int) else n


def window_of(centre, window, shift):
    """The window of a centre, as the plane is cut: it begins at ``shift``, a border belongs to what comes after it."""
    return tuple(math.floor(round((c + 0.5 - s) / w, 3)) for c, w, s in zip(centre, pair(window), pair(shift)))


def slow(qkv, groups, key_bias=None, bias=None):
    """Attention of one image ``(n, 3·C)`` inside ``groups`` of tokens, which are lists; zeros for all others."""
    q, k, v = qkv.double().unflatten(-1, (3, HEADS, -1)).unbind(-3)
    rows = [torch.zeros(HEADS, WIDTH, dtype=torch.float64)] * len(qkv)
    for group in groups:
        for i in group:
            heads = []
            for h in range(HEADS):
                scores = []
                for j in group:
                    score = (q[i, h] * k[j, h]).sum() * WIDTH**-0.5
                    score = score if key_bias is None else score + key_bias[j]
                    scores.append(score if bias is None else score + bias(i, j)[h])
                heads.append(torch.stack(scores).softmax(0) @ v[group, h])
            rows[i] = torch.stack(heads)
    return torch.stack(rows).flatten(1)


def groups_of(coords, window, shift, valid=None):
    groups = {}
    for i, centre in enumerate(coords.tolist()):
        if valid is None or valid[i]:
            groups.setdefault(window_of(centre, window, shift), []).append(i)
    return list(groups.values())


def slow_windows(qkv, coords, window, shift, key_bias=None, valid=None):
    return torch.stack(
        [
            slow(
                qkv[b],
                groups_of(coords[b % len(coords)], window, shift, None if valid is None else valid[b]),
                None if key_bias is None else key_bias[b],
            )
            for b in range(len(qkv))
        ]
    )


def full(grid):
    return grid_coords(grid, grid)


def pruned(grid, number=None, batch=2):
    """Another subset of the patches for each image, in raster order."""
    number = max(grid[0] * grid[1] // 2, 1) if number is None else number
    kept = torch.stack([torch.randperm(grid[0] * grid[1])[:number].sort().values for _ in range(batch)])
    return full(grid)[0][kept]


def merged(grid, batch=2):
    """Neighbours in every second row become one, from the first or the second patch on: centres between patches."""
    images = []
    for b in range(batch):
        tokens = []
        for y, row in enumerate(full(grid)[0].view(*grid, 2)):
            pairs = (len(row) - b) // 2 if y % 2 else 0
            tokens += [row[:b], row[b : b + 2 * pairs].view(pairs, 2, 2).mean(1), row[b + 2 * pairs :]]
        images.append(torch.cat(tokens))
    number = min(map(len, images))
    return torch.stack([image[:number] for image in images])


def clustered(grid):
    return grid_coords(grid, tuple(-(-side // 2) for side in grid))


TOKENS = dict(full=full, pruned=pruned, merged=merged, clustered=clustered)


def make_qkv(batch, number, dtype=torch.float32):
    return torch.randn(batch, number, 3 * HEADS * WIDTH).to(dtype)


def run(qkv, coords, grid, window, shift=0, key_bias=None, bias=None, **kwargs):
    return window_attention(
        qkv, HEADS, assign_windows(coords, grid, window, shift=shift, **kwargs), key_bias=key_bias, bias=bias
    )[0]


@pytest.mark.parametrize('plane', PLANES, ids=str)
@pytest.mark.parametrize('kind', TOKENS)
def test_equals_loops_over_images_windows_and_tokens(plane, kind):
    grid, window, shift = plane
    coords = TOKENS[kind](grid)
    qkv = make_qkv(2, coords.shape[1])
    assert close(run(qkv, coords, grid, window, shift), slow_windows(qkv, coords, window, shift))
    key_bias = torch.rand(qkv.shape[:2]) * 3
    out = run(qkv, coords, grid, window, shift, key_bias=key_bias)
    assert close(out, slow_windows(qkv, coords, window, shift, key_bias=key_bias))


def test_centres_of_merged_tokens_do_lie_on_borders_between_windows():
    """Half-way centres are among those that the loops were compared on; rounding does not move them."""
    coords = merged((8, 8))
    assert ((coords[..., 1] + 0.5) % 4 == 0).any()
    exact = assign_windows(torch.tensor([[[0.0, 3.5], [0.0, 3.0]]]), (4, 8), 4)
    below = assign_windows(torch.tensor([[[0.0, 3.4999995], [0.0, 3.0]]]), (4, 8), 4)
    assert torch.equal(exact.place, below.place) and exact.place[0, 0] // exact.slots == 1


def partition(x, grid, window):
    """The usual reshape ``(B, H·W, C)`` → ``(B·windows, w², C)``."""
    (h, w), (p, q) = grid, pair(window)
    return x.view(-1, h // p, p, w // q, q, x.shape[-1]).transpose(2, 3).reshape(-1, p * q, x.shape[-1])


def unpartition(x, grid, window):
    (h, w), (p, q) = grid, pair(window)
    return x.view(-1, h // p, w // q, p, q, x.shape[-1]).transpose(2, 3).reshape(-1, h * w, x.shape[-1])


def plain_attention(qkv, mask=None):
    q, k, v = qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


@pytest.mark.parametrize('grid, window', [((8, 12), 4), ((6, 10), (3, 5))])
def test_a_full_grid_equals_the_usual_partition(grid, window):
    qkv = make_qkv(3, grid[0] * grid[1])
    expected = unpartition(plain_attention(partition(qkv, grid, window)), grid, window)
    assert close(run(qkv, full(grid), grid, window), expected, 1e-6)
    windows = assign_windows(full(grid), grid, window)
    assert torch.equal(windows.split(qkv), partition(qkv, grid, window))
    assert torch.equal(windows.join(windows.split(qkv)), qkv)


@pytest.mark.parametrize('grid, window, shift', [((8, 12), 4, 2), ((6, 10), (3, 5), (1, 2))])
def test_a_shift_equals_a_cyclic_shift_with_a_mask(grid, window, shift):
    """Swin's way: roll the plane, cut it, and let only patches see each other that were neighbours before."""
    qkv = make_qkv(2, grid[0] * grid[1])
    regions = torch.zeros(1, *grid)
    p, s = pair(window), pair(shift)
    for i, rows in enumerate((slice(0, -p[0]), slice(-p[0], -s[0]), slice(-s[0], None))):
        for j, columns in enumerate((slice(0, -p[1]), slice(-p[1], -s[1]), slice(-s[1], None))):
            regions[:, rows, columns] = 3 * i + j
    regions = partition(regions.view(1, -1, 1), grid, window)
    mask = (regions == regions.transpose(1, 2))[:, None].repeat(2, 1, 1, 1)
    rolled = qkv.unflatten(1, grid).roll((-s[0], -s[1]), (1, 2)).flatten(1, 2)
    out = unpartition(plain_attention(partition(rolled, grid, window), mask), grid, window)
    expected = out.unflatten(1, grid).roll(s, (1, 2)).flatten(1, 2)
    assert close(run(qkv, full(grid), grid, window, shift), expected, 1e-6)


@pytest.mark.parametrize('kind', ['pruned', 'merged'])
@pytest.mark.parametrize('shift', [0, 2])
def test_padding_is_no_key_and_gets_zeros(kind, shift):
    grid = (7, 9)
    coords = TOKENS[kind](grid)
    valid = torch.rand(coords.shape[:2]) > 0.4
    valid[1, coords[1, :, 0] < 4] = False  # windows that hold nothing but padding
    qkv, key_bias = make_qkv(*coords.shape[:2]), torch.rand(coords.shape[:2])
    out = run(qkv, coords, grid, 4, shift, key_bias=key_bias, valid=valid)
    assert close(out, slow_windows(qkv, coords, 4, shift, key_bias, valid))
    assert not out[~valid].any()
    dirty = qkv.masked_fill(~valid[..., None], math.nan)
    assert torch.equal(run(dirty, coords, grid, 4, shift, key_bias=key_bias, valid=valid), out)
    for i in range(2):
        without = run(
            qkv[i : i + 1, valid[i]], coords[i : i + 1, valid[i]], grid, 4, shift, key_bias[i : i + 1, valid[i]]
        )
        assert close(out[i, valid[i]], without[0], 1e-6)


def test_an_image_of_nothing_but_padding_gives_zeros_and_finite_gradients():
    qkv, valid = make_qkv(2, 36).requires_grad_(), torch.zeros(2, 36, dtype=torch.bool)
    valid[1] = True
    out = run(qkv, full((6, 6)), (6, 6), 4, valid=valid)
    out.square().sum().backward()
    assert not out[0].any() and not qkv.grad[0].any()
    assert qkv.grad.isfinite().all() and qkv.grad[1].any()


@pytest.mark.parametrize('kind', ['pruned', 'merged'])
def test_a_batch_is_its_images_one_by_one(kind):
    grid = (7, 9)
    coords = TOKENS[kind](grid)
    valid = torch.rand(coords.shape[:2]) > 0.2
    qkv, key_bias = make_qkv(*coords.shape[:2]), torch.rand(coords.shape[:2])
    out = run(qkv, coords, grid, 3, 1, key_bias=key_bias, valid=valid)
    for i in range(2):
        own = slice(i, i + 1)
        assert close(out[own], run(qkv[own], coords[own], grid, 3, 1, key_bias=key_bias[own], valid=valid[own]), 1e-6)


@pytest.mark.parametrize('numbers', [(20, 1, 63), (5, 0, 3), (0, 0), (30,)])
@pytest.mark.parametrize('shift', [0, 2])
@pytest.mark.parametrize('padded', [False, True])
def test_a_ragged_batch_is_its_images_one_by_one(numbers, shift, padded):
    grid = (7, 9)
    coords = [pruned(grid, n, 1) for n in numbers]
    qkv, key_bias = [make_qkv(1, n) for n in numbers], [torch.rand(1, n) for n in numbers]
    valid = [torch.rand(1, n) > 0.3 for n in numbers]
    given = dict(packing=Packing(torch.tensor(numbers)))
    if padded:
        given['valid'] = torch.cat(valid, 1)[0]
    out = run(torch.cat(qkv, 1)[0], torch.cat(coords, 1)[0], grid, 4, shift, torch.cat(key_bias, 1)[0], **given)
    assert out.shape == (sum(numbers), HEADS * WIDTH)
    for i, part in enumerate(out.split(numbers)):
        if numbers[i]:
            own = dict(valid=valid[i]) if padded else {}
            assert close(part, slow_windows(qkv[i], coords[i], 4, shift, key_bias[i], own.get('valid'))[0])
            assert close(part, run(qkv[i], coords[i], grid, 4, shift, key_bias[i], **own)[0], 1e-6)


# ---------------------------------------------------------------------- crowded windows


def crowded(grid):
    """Patches opposite each other become one: all centres are that of the grid, more than its window has slots."""
    plane = full(grid)[0]
    half = len(plane) // 2
    return (plane[:half] + plane.flip(0)[:half])[None] / 2


def test_far_merges_can_crowd_a_window_and_the_surplus_moves_on():
    grid = (8, 8)
    coords = crowded(grid)
    assert (coords == 3.5).all() and coords.shape[1] == 32 > 9
    windows = assign_windows(coords, grid, 3)
    # the window of the centre is number 4 of 9; 9 slots, then the next windows
    assert torch.equal(windows.place[0], 36 + torch.arange(32))
    qkv = make_qkv(1, 32)
    groups = [list(range(i, min(i + 9, 32))) for i in range(0, 32, 9)]
    assert close(window_attention(qkv, HEADS, windows)[0][0], slow(qkv[0], groups))
    roomy = assign_windows(coords, grid, 3, slots=32)
    assert close(window_attention(qkv, HEADS, roomy)[0], slow_windows(qkv, coords, 3, 0))


def test_surplus_at_the_end_of_the_grid_moves_back():
    coords = torch.tensor([[[0.0, 0.0]] + [[3.0, 3.0]] * 6])
    windows = assign_windows(coords, (4, 4), 2)
    assert torch.equal(windows.place[0], torch.tensor([0, 10, 11, 12, 13, 14, 15]))


@pytest.mark.parametrize('padded', [False, True])
def test_no_token_is_lost_and_none_moves_without_need(padded):
    """Random crowds against filling slots one by one."""
    grid, window, slots, count = (6, 9), 3, 9, 6
    for _ in range(20):
        coords = (torch.rand(3, 40, 2) ** 3) * torch.tensor([5.0, 8.0])
        valid = torch.rand(3, 40) > 0.3 if padded else None
        windows = assign_windows(coords, grid, window, valid=valid)
        for b in range(3):
            takes = [i for i in range(40) if valid is None or valid[b, i]]
            home = {i: [int((coords[b, i, a] + 0.501) // window) for a in (0, 1)] for i in takes}
            takes.sort(key=lambda i: (home[i], i))
            expected, free = {}, 0
            for rest, i in zip(range(len(takes), 0, -1), takes):
                start = (home[i][0] * 3 + home[i][1]) * slots
                expected[i] = min(max(start, free), count * slots - rest)
                free = max(start, free) + 1
            place = windows.place[b].tolist()
            assert [place[i] for i in takes] == [expected[i] for i in takes]
            assert len({place[i] for i in takes}) == len(takes) and max(place[i] for i in takes) < count * slots
            assert all(place[i] == count * slots for i in range(40) if i not in home)


def test_fewer_slots_for_tokens_on_a_coarser_raster():
    grid, raster = (12, 12), (6, 6)
    coords, qkv = grid_coords(grid, raster), make_qkv(2, 36)
    windows = assign_windows(coords, grid, 6, slots=9)
    assert windows.split(qkv).shape == (2 * 4, 9, qkv.shape[-1])
    assert close(window_attention(qkv, HEADS, windows)[0], slow_windows(qkv, coords, 6, 0))


# ---------------------------------------------------------------------- positions


def slow_read(table, dy, dx):
    """Bilinear reading of ``(2h-1, 2w-1, heads)`` at one offset."""
    rows, columns = (side // 2 for side in table.shape[:2])
    total = torch.zeros(table.shape[-1], dtype=torch.float64)
    for y in range(-rows, rows + 1):
        for x in range(-columns, columns + 1):
            weight = max(0.0, 1 - abs(y - dy)) * max(0.0, 1 - abs(x - dx))
            total += weight * table[y + rows, x + columns].double()
    return total


@pytest.mark.parametrize('kind', TOKENS)
@pytest.mark.parametrize('window, shift', [(4, 2), ((2, 3), 0), (1, 0)])
def test_a_position_bias_is_read_at_the_offsets_of_centres(kind, window, shift):
    grid = (5, 7)
    coords = TOKENS[kind](grid)
    h, w = pair(window)
    table, qkv = torch.randn(2 * h - 1, 2 * w - 1, HEADS), make_qkv(2, coords.shape[1])
    windows = assign_windows(coords, grid, window, shift=shift)
    assert windows.offsets().shape[0] == windows.count * len(coords), 'shared centres make one bias'
    out, _ = window_attention(qkv, HEADS, windows, bias=read_bias(table, windows.offsets()))
    for b in range(2):
        centres = coords[b % len(coords)].tolist()

        def bias(i, j, centres=centres):
            # a merged token on a border can be half a patch further from the others than patches of a window can be
            dy, dx = (max(1 - n, min(n - 1, p - q)) for p, q, n in zip(centres[i], centres[j], (h, w)))
            return slow_read(table, dy, dx)

        assert close(out[b], slow(qkv[b], groups_of(coords[b % len(coords)], window, shift), bias=bias))


def test_a_bias_of_one_window_serves_all():
    qkv, bias = make_qkv(2, 64), torch.randn(1, HEADS, 16, 16)
    windows = assign_windows(full((8, 8)), (8, 8), 4)
    one, _ = window_attention(qkv, HEADS, windows, bias=bias)
    assert torch.equal(one, window_attention(qkv, HEADS, windows, bias=bias.expand(8, -1, -1, -1))[0])
    assert not close(one, window_attention(qkv, HEADS, windows)[0], 1e-2)


@pytest.mark.parametrize('shared', [True, False])
def test_offsets_stay_in_the_table_even_in_crowded_windows(shared):
    coords = full((8, 8)) if shared else torch.rand(2, 40, 2) ** 3 * 7
    offsets = assign_windows(coords, (8, 8), (2, 4)).offsets()
    assert offsets[..., 0].abs().max() <= 1 and offsets[..., 1].abs().max() <= 3


@pytest.mark.parametrize('kind', ['full', 'pruned'])
def test_rotary_positions_inside_windows(kind):
    coords = TOKENS[kind]((7, 9))
    qkv = make_qkv(2, coords.shape[1])
    rotation = rotary_eva02(coords, (4, 4), WIDTH)
    q, k, v = qkv.unflatten(-1, (3, HEADS, -1)).unbind(-3)
    turned = torch.stack([rotation(q), rotation(k), v], 2).flatten(2)
    windows = assign_windows(coords, (7, 9), 4, shift=1)
    out, keys = window_attention(qkv, HEADS, windows, rotate=rotation)
    assert close(out, slow_windows(turned, coords, 4, 1)) and torch.equal(keys, k)


# ---------------------------------------------------------------------- numbers, graphs, errors


def test_scale_and_dropout_reach_the_kernel():
    qkv, windows = make_qkv(2, 64), assign_windows(full((8, 8)), (8, 8), 4)
    one, _ = window_attention(qkv, HEADS, windows, scale=0.0)
    mean = partition(qkv.unflatten(-1, (3, -1))[:, :, 2], (8, 8), 4).mean(1, keepdim=True).expand(-1, 16, -1)
    assert close(one, unpartition(mean, (8, 8), 4))
    assert not close(window_attention(qkv, HEADS, windows, dropout_p=0.5)[0], window_attention(qkv, HEADS, windows)[0])


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize('with_bias', [False, True])
def test_dtypes(dtype, tolerance, with_bias):
    coords = pruned((7, 9))
    qkv = make_qkv(*coords.shape[:2], dtype)
    windows = assign_windows(coords, (7, 9), 4)
    bias = torch.zeros(1, HEADS, 16, 16) if with_bias else None
    out, _ = window_attention(qkv, HEADS, windows, bias=bias)
    assert out.dtype == dtype and close(out, slow_windows(qkv, coords, 4, 0), tolerance)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_empty_slots_carried_in_extra_channels_as_on_cuda(monkeypatch, dtype, tolerance):
    monkeypatch.setattr(attention, 'dense_attention', partial(attention.dense_attention, channels=True))
    coords = pruned((7, 9), 12)  # of 16 windows some are empty
    valid = torch.rand(coords.shape[:2]) > 0.3
    qkv, key_bias = make_qkv(*coords.shape[:2], dtype).requires_grad_(), torch.rand(coords.shape[:2]) * 5
    windows = assign_windows(coords, (7, 9), 2, valid=valid)
    out, _ = window_attention(qkv, HEADS, windows, key_bias=key_bias)
    assert close(out, slow_windows(qkv, coords, 2, 0, key_bias, valid), tolerance)
    out.float().square().sum().backward()
    assert qkv.grad.isfinite().all()


@pytest.mark.parametrize('padded', [False, True])
def test_gradients_are_those_of_the_loops(padded):
    coords = merged((5, 7))
    valid = torch.rand(coords.shape[:2]) > 0.3 if padded else None
    qkv, key_bias = make_qkv(*coords.shape[:2]).requires_grad_(), torch.rand(coords.shape[:2], requires_grad=True)
    out = run(qkv, coords, (5, 7), 3, 1, key_bias=key_bias, valid=valid)
    expected = slow_windows(qkv, coords, 3, 1, key_bias, valid)
    weight = torch.randn(out.shape)
    got = torch.autograd.grad((out * weight).sum(), (qkv, key_bias))
    for a, b in zip(got, torch.autograd.grad((expected * weight).sum(), (qkv, key_bias))):
        assert close(a, b, 3e-5)


def test_gradients_reach_the_table_of_a_position_bias():
    coords = merged((4, 6))
    table = torch.randn(5, 5, 1, dtype=torch.float64, requires_grad=True)
    offsets = assign_windows(coords.double(), (4, 6), 3).offsets()
    assert torch.autograd.gradcheck(lambda t: read_bias(t, offsets), table)


class Windowed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(7, 7, HEADS))

    def forward(self, qkv, coords, valid):
        windows = assign_windows(coords, (7, 9), 4, shift=2, valid=valid)
        return window_attention(qkv, HEADS, windows, bias=read_bias(self.table, windows.offsets()))


@pytest.mark.parametrize('padded', [False, True])
def test_compiles_as_one_graph_and_exports(padded):
    module = Windowed()

    def example():
        coords = pruned((7, 9))
        return make_qkv(*coords.shape[:2]), coords, torch.rand(coords.shape[:2]) > 0.3 if padded else None

    inputs, others = example(), example()
    compiled = torch.compile(module, fullgraph=True, backend='eager')
    exported = torch.export.export(module, inputs).module()
    for args in (inputs, others):
        expected = module(*args)[0]
        assert close(compiled(*args)[0], expected) and close(exported(*args)[0], expected)


def test_exports_for_any_batch_and_number_of_tokens():
    module, batch, number = Windowed(), torch.export.Dim('B', max=64), torch.export.Dim('n', min=17, max=63)

    def example(batch, number):
        return make_qkv(batch, number), pruned((7, 9), number, batch), torch.rand(batch, number) > 0.3

    shapes = dict(qkv={0: batch, 1: number}, coords={0: batch, 1: number}, valid={0: batch, 1: number})
    exported = torch.export.export(module, example(2, 30), dynamic_shapes=shapes).module()
    for args in (example(5, 41), example(2, 63)):
        assert close(exported(*args)[0], module(*args)[0])


@pytest.mark.gpu
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-4), (torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize('with_bias', [False, True])
def test_on_a_gpu_without_a_sync(dtype, tolerance, with_bias):
    coords = merged((7, 9))
    valid = torch.rand(coords.shape[:2]) > 0.3
    qkv, key_bias = make_qkv(*coords.shape[:2], dtype), torch.rand(coords.shape[:2]) * 5
    inputs = [t.cuda() for t in (qkv, coords, valid, key_bias)]
    table = torch.zeros(7, 7, HEADS, device='cuda')
    torch.cuda.set_sync_debug_mode('error')
    try:
        windows = assign_windows(inputs[1], (7, 9), 4, shift=2, valid=inputs[2])
        bias = read_bias(table, windows.offsets()) if with_bias else None
        out, _ = window_attention(inputs[0], HEADS, windows, bias=bias, key_bias=inputs[3])
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert close(out.cpu(), slow_windows(qkv, coords, 4, 2, key_bias, valid), tolerance)


def test_errors_say_what_would_be_right():
    with pytest.raises(ValueError, match='4 windows of 9 slots cannot hold 64 tokens; set slots >= 16'):
        assign_windows(full((8, 8)), (8, 8), 4, slots=9)
    windows = assign_windows(full((8, 8)), (8, 8), 4)
    with pytest.raises(ValueError, match='65 tokens, 0 of them of a prefix, and 64 centres; give one centre for each'):
        window_attention(make_qkv(2, 65), HEADS, windows)
    with pytest.raises(ValueError, match='no position bias for prefix tokens; leave the class token out'):
        window_attention(make_qkv(2, 65), HEADS, windows, num_prefix=1, bias=torch.zeros(1, HEADS, 16, 16))


# ---------------------------------------------------------------------- prefix tokens


def longformer(qkv, coords, window, prefix, key_bias, rotation=None):
    """Attention of one image whose first tokens see all and are seen by all."""
    if rotation is not None:
        q, k, v = qkv[prefix:].unflatten(-1, (3, HEADS, -1)).unbind(-3)
        turned = torch.stack([rotation(q), rotation(k), v], 1).flatten(1)
        qkv = torch.cat([qkv[:prefix], turned])
    rows, homes = list(range(len(qkv))), groups_of(coords, window, 0)
    whole = slow(qkv, [rows], key_bias)
    inside = [slow(qkv, [list(range(prefix)) + [prefix + i for i in group]], key_bias) for group in homes]
    return torch.cat([whole[:prefix], sum(inside)[prefix:]])


@pytest.mark.parametrize('rotary', [False, True])
@pytest.mark.parametrize('kind', [*TOKENS, 'packed'])
def test_prefix_tokens_see_all_and_are_seen_by_all(kind, rotary):
    grid, window, prefix = (7, 9), 4, 2
    coords = list(TOKENS['pruned' if kind == 'packed' else kind](grid))
    coords = coords * 2 if len(coords) == 1 else coords
    if kind == 'packed':
        coords = [coords[0], coords[1][:11]]
    packing = Packing(torch.tensor([prefix + len(c) for c in coords])) if kind == 'packed' else None
    qkv = [make_qkv(1, prefix + len(c))[0] for c in coords]
    bias = [torch.rand(len(t)) for t in qkv]
    join = torch.cat if packing else torch.stack
    windows = assign_windows(join(coords), grid, window, packing=packing and packing.without(prefix))
    rotation = partial(rotary_eva02, grid=grid, head_dim=WIDTH) if rotary else lambda c: None
    out, keys = window_attention(
        join(qkv),
        HEADS,
        windows,
        num_prefix=prefix,
        lengths=packing,
        rotate=rotation(join(coords)),
        key_bias=join(bias),
    )
    expected = [longformer(t, c, window, prefix, b, rotation(c)) for t, c, b in zip(qkv, coords, bias)]
    assert close(out, join(expected))
    assert torch.equal(keys, join(qkv).unflatten(-1, (3, HEADS, -1)).select(-3, 1))
