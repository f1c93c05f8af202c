"""ToMe against a slow loop over its description (arXiv 2210.09461, section 3)."""

import copy

import pytest
import torch

from mmtoken.core import HostInfo, TokenState, dense_attention
from mmtoken.methods.tome import ToMe

HEADS, DIMS = 2, 6


class SlowImage:
    """The patch tokens of one image, each with the patches that it stands for, in fp64."""

    def __init__(self, x):
        self.x = x.double()
        self.members = [[p] for p in range(len(x))]

    def merge(self, keys, r):
        """One step: keys ``(n, heads, d)``."""
        metric, n = keys.double().mean(1), len(self.members)
        edges = []
        for a in range(0, n, 2):
            cosines = []
            for b in range(1, n, 2):
                norm = float(metric[a].norm() * metric[b].norm())
                cosines.append(float(metric[a] @ metric[b]) / norm if norm > 0 else 0.0)
            if cosines:
                edges.append((max(cosines), a, 2 * cosines.index(max(cosines)) + 1))
        edges = sorted(edges, key=lambda edge: -edge[0])[: min(r, n // 2)]
        x, members = list(self.x), [list(m) for m in self.members]
        for token in {b for _, _, b in edges}:
            group = [token] + [a for _, a, b in edges if b == token]
            sizes = [len(self.members[t]) for t in group]
            x[token] = sum(size * self.x[t] for size, t in zip(sizes, group)) / sum(sizes)
            members[token] = [p for t in group for p in self.members[t]]
        gone = {a for _, a, _ in edges}
        self.x = torch.stack([x[t] for t in range(n) if t not in gone])
        self.members = [members[t] for t in range(n) if t not in gone]

    def source(self, n):
        """Which token stands for each patch, as a 0/1 matrix ``(n, tokens)``."""
        out = torch.zeros(n, len(self.members), dtype=torch.float64)
        for token, patches in enumerate(self.members):
            out[patches, token] = 1
        return out


def make(depth=4, **kwargs):
    reducer = ToMe(**kwargs)
    reducer.bind(HostInfo(depth=depth, embed_dims=DIMS, num_heads=HEADS, out_indices=(depth - 1,)))
    return reducer


def step(reducer, state, i, keys=None):
    """What a host does around block i; keys of the tokens are random unless given ``(B, P+n, heads, d)``."""
    state.keys = torch.randn(*state.x.shape[:2], HEADS, 5) if keys is None else keys
    reducer.before(state, i)
    reducer.between(state, i)
    reducer.after(state, i)


def make_state(grid=(4, 6), batch=2, num_prefix=0, padding=None):
    return TokenState(torch.randn(batch, num_prefix + grid[0] * grid[1], DIMS), grid, num_prefix, padding=padding)


@pytest.mark.parametrize(
    'grid, num_prefix, r',
    [
        ((4, 6), 0, [5, 3, 4, 2]),
        ((4, 6), 1, [5, 3, 4, 2]),
        ((3, 5), 3, [4, 0, 3, 1]),
        ((5, 5), 2, [100, 100, 2, 1]),
    ],
)
def test_several_blocks_against_loops(grid, num_prefix, r):
    state, n = make_state(grid, num_prefix=num_prefix), grid[0] * grid[1]
    prefix = state.x[:, :num_prefix].clone()
    slow = [SlowImage(x) for x in state.patches]
    reducer = make(r=r)
    for i in range(4):
        keys = torch.randn(2, state.x.shape[1], HEADS, 5)
        step(reducer, state, i, keys)
        for b in range(2):
            slow[b].merge(keys[b, num_prefix:], r[i])
            assert torch.allclose(state.patches[b].double(), slow[b].x, atol=1e-5)
            assert state.sizes[b].tolist() == [len(m) for m in slow[b].members]
        # blocks change tokens; the reference follows
        state.x = torch.cat([state.x[:, :num_prefix], state.patches * 1.5 - 0.2], 1)
        for image in slow:
            image.x = image.x * 1.5 - 0.2

    full = state.dense()
    values = torch.randn(2, state.patches.shape[1], 3)
    for b in range(2):
        source = slow[b].source(n)
        assert torch.allclose(full[b].double(), source @ slow[b].x, atol=1e-5), "each patch gets its group's value"
        assert torch.equal(state.dense(values)[b].double(), source @ values[b].double())
        centres = state.coords[b].double()
        yx = torch.tensor([[y, x] for y in range(grid[0]) for x in range(grid[1])], dtype=torch.float64)
        assert torch.allclose(centres, source.t() @ yx / source.sum(0)[:, None], atol=1e-5)
    assert torch.equal(state.x[:, :num_prefix], prefix)
    assert torch.equal(state.sizes.sum(1), torch.full((2,), float(n)))


def test_similarity_is_the_cosine_of_the_mean_key():
    """Each head alone would match token 0 with 1; their mean matches it with 3."""
    keys = torch.zeros(1, 4, 2, 2)
    keys[0, 0] = torch.tensor([[9.0, 0], [-8, 1]])  # mean (.5, .5)
    keys[0, 1] = torch.tensor([[9.0, 0], [-8, -1]])  # mean (.5, -.5)
    keys[0, 2] = torch.tensor([[-1.0, 0], [-1, 0]])
    keys[0, 3] = torch.tensor([[0.0, 1], [0.02, 0]])  # mean (.01, .5): small, but points the same way
    state = make_state((1, 4), batch=1)
    x = state.x.clone()
    step(make(r=1), state, 0, keys)
    assert state.sizes.tolist() == [[1, 1, 2]]
    assert torch.allclose(state.x[0], torch.stack([x[0, 1], x[0, 2], (x[0, 0] + x[0, 3]) / 2]), atol=1e-6)


def test_a_merge_weighs_tokens_by_size():
    state = make_state((1, 4), batch=1)
    x = state.x.clone()
    same = torch.ones(1, 4, HEADS, 5)
    reducer = make(r=[1, 1, 1, 0])
    for i in range(3):  # always token 0 into token 1
        step(reducer, state, i, same[:, : 4 - i])
        assert torch.allclose(state.x[0, 0], x[0, : i + 2].mean(0), atol=1e-6)
        assert state.sizes[0, 0] == i + 2


def test_raster_order_is_kept():
    """Tokens that stay never change places, and a merged one is found where its partner stayed."""
    state = make_state((4, 6), batch=3)
    reducer = make(r=4)
    for i in range(4):
        n = state.patches.shape[1]
        step(reducer, state, i)
        place = state.trail[-1].restore.patches(torch.arange(n - 4.0).expand(3, -1)[..., None])[..., 0]
        assert (place[:, 1::2].diff(dim=1) > 0).all(), 'odd tokens all stay'
        for new in place:
            merged = {int(p) for p in new[1::2]}
            stayed = [int(p) for t, p in enumerate(new) if t % 2 or int(p) not in merged]
            assert stayed == list(range(n - 4))


def test_attention_weighs_each_key_by_the_patches_it_stands_for():
    state = make_state(num_prefix=2)
    step(make(r=5), state, 0)
    bias = state.layout.key_bias
    assert torch.equal(bias[:, :2], torch.zeros(2, 2))
    assert torch.allclose(bias[:, 2:], state.sizes.log())
    # a key of size s acts as s equal keys
    q, k, v = (torch.randn(2, 1, state.x.shape[1], 4) for _ in range(3))
    repeats = torch.cat([torch.ones(2, 2), state.sizes], 1).long()
    merged = dense_attention(q, k, v, key_bias=bias)
    for b in range(2):
        spread = dense_attention(q[b : b + 1], *(t[b : b + 1].repeat_interleave(repeats[b], 2) for t in (k, v)))
        assert torch.allclose(merged[b], spread[0], atol=1e-5)


def test_attention_may_be_left_as_it_is():
    state = make_state()
    step(make(r=5, proportional=False), state, 0)
    assert state.layout.key_bias is None and state.sizes.amax() > 1


def counts(reducer, n, depth=4, num_prefix=1):
    state = make_state((1, n), num_prefix=num_prefix)
    out = []
    for i in range(depth):
        step(reducer, state, i)
        out.append(state.patches.shape[1])
    return out


@pytest.mark.parametrize(
    'kwargs, n, expected',
    [
        (dict(r=4), 24, [20, 16, 12, 8]),
        (dict(r=[0, 5, 0, 2]), 24, [24, 19, 19, 17]),
        (dict(r=100), 24, [12, 6, 3, 2]),
        (dict(r=100), 1, [1, 1, 1, 1]),
        (dict(r=4, layers=[1, 3]), 24, [24, 20, 20, 16]),
        (dict(r=[2, 7], layers=[1, 3]), 24, [24, 22, 22, 15]),
        (dict(keep=1.0), 24, [24, 24, 24, 24]),
        (dict(keep=0.5**4), 64, [32, 16, 8, 4]),
        (dict(keep=0.25, layers=[0, 2]), 64, [32, 32, 16, 16]),
    ],
)
def test_tokens_after_each_block(kwargs, n, expected):
    assert counts(make(**kwargs), n) == expected


@pytest.mark.parametrize('keep', [0.3, 0.62, 0.9])
def test_keep_is_the_part_left_at_the_end(keep):
    left = counts(make(depth=12, keep=keep), 200, depth=12)
    assert left[-1] == pytest.approx(keep * 200, abs=4)
    parts = [b / a for a, b in zip([200, *left], left)]
    assert max(parts) - min(parts) < 0.02, 'the same part in every block'


def test_zero_keys_are_safe():
    """Windows padded with zeros have keys of zero length, whose cosine is 0/0."""
    state = make_state()
    keys = torch.randn(2, 24, HEADS, 5)
    keys[0], keys[1, ::3] = 0, 0
    slow = SlowImage(state.patches[1])
    step(make(r=8), state, 0, keys)
    slow.merge(keys[1], 8)
    assert state.x.isfinite().all() and state.dense().isfinite().all()
    assert torch.allclose(state.patches[1].double(), slow.x, atol=1e-5)


def test_padding_is_neither_merged_nor_merged_into():
    padding = torch.zeros(2, 24, dtype=torch.bool)
    padding[0, [0, 5, 6, 7, 23]] = True
    state = make_state(padding=padding)
    x, keys = state.x.clone(), torch.randn(2, 24, HEADS, 5)
    step(make(r=6), state, 0, keys)
    assert state.padding.sum(1).tolist() == [5, 0]
    assert (state.sizes[state.padding] == 1).all()
    assert torch.equal(state.dense()[padding], x[padding])
    alone = TokenState(x[1:], (4, 6))
    step(make(r=6), alone, 0, keys[1:])
    assert torch.equal(state.patches[1], alone.patches[0])


@pytest.mark.parametrize('r', [3, 6, 12])
def test_what_padded_patches_hold_does_not_matter(r):
    """Also when more merges are asked for than real tokens are there."""
    padding = torch.zeros(2, 24, dtype=torch.bool)
    padding[:, 10:] = True
    x, keys = torch.randn(2, 24, DIMS), torch.randn(2, 24, HEADS, 5)
    results = []
    for fill in (0.0, 50.0):
        state = TokenState(x.masked_fill(padding[..., None], fill), (4, 6), padding=padding)
        for i in range(2):
            n = state.patches.shape[1]
            own = keys[:, :n].masked_fill(state.padding[..., None, None], fill + 1)
            step(make(r=r), state, i, own)
        results.append((state.patches[~state.padding], state.dense()[~padding]))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_the_batch_does_not_matter():
    state, keys = make_state(batch=3, num_prefix=1), torch.randn(3, 25, HEADS, 5)
    alone = [TokenState(x[None], (4, 6), 1) for x in state.x.clone()]
    step(make(r=7), state, 0, keys)
    for b in range(3):
        step(make(r=7), alone[b], 0, keys[b : b + 1])
        assert torch.equal(state.x[b], alone[b].x[0]) and torch.equal(state.sizes[b], alone[b].sizes[0])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Sums of large tokens overflow fp16, their means do not; sizes above 256 are no bf16 integers."""
    state = TokenState((torch.rand(1, 600, DIMS) * 6e4).to(dtype), (20, 30))
    reducer = make(r=300)
    for i in range(4):
        step(reducer, state, i, torch.ones(1, state.x.shape[1], HEADS, 5, dtype=dtype))
    assert state.x.dtype == dtype and state.x.isfinite().all()
    assert state.sizes.sum() == 600 and state.sizes.amax() > 256
    assert state.layout.key_bias.dtype == torch.float32


def test_gradients_are_those_of_the_means():
    x = torch.randn(1, 24, DIMS, requires_grad=True)
    state = TokenState(x, (4, 6))
    reducer = make(r=6)
    for i in range(3):
        step(reducer, state, i)
    weight = torch.randn_like(state.x)
    (state.x * weight).sum().backward()
    source = state.trail[0].restore.patches(
        state.trail[1].restore.patches(state.trail[2].restore.patches(torch.eye(6)[None]))
    )[0]
    assert torch.allclose(x.grad[0], source @ (weight[0] / source.sum(0)[:, None]), atol=1e-5)


def test_nothing_of_an_image_is_kept_on_the_module():
    reducer = make(r=5)
    before = copy.deepcopy(reducer.__dict__)
    step(reducer, make_state(), 0)
    assert reducer.__dict__ == before and not list(reducer.buffers())


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(), 'either r or keep'),
        (dict(r=4, keep=0.5), 'either r or keep'),
        (dict(keep=0), r'keep=0 is outside \(0, 1\]'),
        (dict(r=-1), r'r=-1.*>= 0'),
        (dict(r=0.5), r'r=0\.5.*integers'),
        (dict(r=[4, 4]), 'r has 2 entries.*4 blocks'),
        (dict(r=4, layers=[0, 4]), r'reducer\.layers=\[0, 4\].*0 to 3'),
    ],
)
def test_arguments_that_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


@pytest.mark.parametrize('prefix', [0, 1, 5])
def test_the_prefix_may_count(prefix):
    """The authors' code tells even from odd with the class token at place 0, so that the first patch stays."""
    for count_prefix in (False, True):
        reducer = make(r=3, count_prefix=count_prefix)
        state = TokenState(torch.randn(2, prefix + 12, DIMS), (3, 4), prefix)
        step(reducer, state, 0)
        place = state.trail[-1].restore.index  # (B, 12): patches that share a token have one place
        odd = prefix % 2 == 1 and count_prefix
        for image in range(2):
            groups = [[p for p in range(12) if place[image, p] == token] for token in range(9)]
            targets = [[p for p in group if p % 2 == (0 if odd else 1)] for group in groups if len(group) > 1]
            assert all(len(one) == 1 for one in targets) and sum(len(g) - 1 for g in groups) == 3
