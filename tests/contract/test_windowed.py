"""Reduced tokens in the windows of a pyramid, against loops over images and windows; the rest of what a windowed host
owes is in the contract, which :mod:`newcomer_hosts` passes by registration.
"""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from mmtoken.testing import randomize

TAPS = (0, 1, 2, 3)
#: Square and not, odd in patches, narrower than a window.
SIZES = [(32, 32), (20, 36), (12, 44)]
KINDS = ('full', 'pruned', 'merged', 'clustered', 'packed')


@pytest.fixture
def build(newcomers):
    def make(kind):
        reducers = dict(
            full=None,
            pruned=dict(type=newcomers.Hardest, part=0.5),
            merged=dict(type='mmtoken.ToMe', r=6),
            clustered=[dict(type='mmtoken.Expedit', layer=i, grid=0.6, proportional=True) for i in (1, 3)],
            packed=dict(type=newcomers.Loud, part=1.0),
        )
        torch.manual_seed(0)
        host = newcomers.newcomer_hosts.Pyramid(reducer=reducers[kind], out_indices=TAPS).eval()
        randomize(host)
        host.served = True
        return host

    return make


def assign(coords, grid, window, **kwargs):
    """Stands in for ``assign_windows``: remembers what it was asked."""
    return SimpleNamespace(coords=coords, window=window, offsets=lambda: None, **kwargs)


def loops(qkv, heads, cut, *, bias, key_bias):
    """Stands in for ``window_attention``; ``bias`` is the table itself."""
    rows, shape = qkv.flatten(0, -2), qkv.shape[:-1]
    sizes = [shape[1]] * shape[0] if cut.packing is None else cut.packing.sizes
    spread = [shape[0], -1] if cut.packing is None else [-1]

    def per_row(values, *tail):
        return values.expand(*spread, *tail).flatten(0, len(spread) - 1).split(sizes)

    valid = torch.ones(shape, dtype=torch.bool) if cut.valid is None else cut.valid
    weights = torch.zeros(shape) if key_bias is None else key_bias
    outs = []
    for image, centres, real, weight in zip(
        rows.split(sizes), per_row(cut.coords, 2), per_row(valid), per_row(weights)
    ):
        out, windows = image.new_zeros(len(image), image.shape[-1] // 3), {}
        for i, centre in enumerate(centres.tolist()):
            # a window begins at the shift; what lies on a border belongs to the window after it
            window = tuple(math.floor(round((c + 0.5 - cut.shift) / cut.window, 3)) for c in centre)
            windows.setdefault(window, []).extend([i] if real[i] else [])
        for group in filter(None, windows.values()):
            q, k, v = image[group].unflatten(-1, (3, heads, -1)).permute(1, 2, 0, 3)
            limit = cut.window - 1
            offsets = ((centres[group][:, None] - centres[group]) / limit).clamp(-1, 1).flip(-1)[None]
            table = F.grid_sample(bias.permute(2, 0, 1)[None], offsets, align_corners=True)[0]
            scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5 + table + weight[group]
            out[group] = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        outs.append(out)
    return torch.cat(outs).view(*shape, -1), qkv.unflatten(-1, (3, heads, -1)).select(-3, 1)


def close(a, b, tolerance=1e-5):
    return all((x - y).abs().max() <= tolerance * y.abs().max().clamp(min=1) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('with_padding', [False, True])
@torch.no_grad()
def test_equals_loops_over_windows(build, newcomers, monkeypatch, kind, size, with_padding):
    host, inputs = build(kind), torch.randn(2, 3, *size)
    padding = host.padding_of(inputs, [(size[0] - 6, size[1]), (size[0], size[1] - 9)]) if with_padding else None
    outs, state = host.forward_tokens(inputs, padding)
    module = newcomers.newcomer_hosts
    monkeypatch.setattr(module, 'assign_windows', lambda *args, slots=None, **kwargs: assign(*args, **kwargs))
    monkeypatch.setattr(module, 'read_bias', lambda table, offsets: table)
    monkeypatch.setattr(module, 'window_attention', loops)
    slow, again = host.forward_tokens(inputs, padding)
    assert state.counts == again.counts and close(outs, slow)
    full = [n * len(inputs) for n in (outs[0][0, 0].numel(), outs[3][0, 0].numel()) for _ in range(2)]
    assert (state.counts == full) == (kind == 'full')


@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_what_padding_holds_does_not_matter(build, kind):
    host, inputs = build(kind), torch.randn(2, 3, 28, 36)
    padding = host.padding_of(inputs, [(20, 36), (28, 24)])
    real = [(~padding).float(), F.max_pool2d(F.pad((~padding).float(), (0, 1, 0, 1)), 2)]
    assert [mask.shape[1:] for mask in real] == [(7, 9), (4, 5)]
    pixels = F.interpolate(padding[:, None].float(), (28, 36)).bool()
    results = [host(inputs.masked_fill(pixels, fill), padding) for fill in (0.0, 5.0)]
    for i, (one, other) in enumerate(zip(*results)):
        mask = real[i // 2][:, None]
        assert close([one * mask], [other * mask], 1e-6)


@torch.no_grad()
def test_a_picture_with_padding_is_the_picture_alone(build):
    host, sizes = build('full'), [(32, 40), (20, 28), (12, 36)]
    pictures = [torch.randn(1, 3, *size) for size in sizes]
    batch = torch.cat([F.pad(one, (0, 40 - one.shape[3], 0, 32 - one.shape[2])) for one in pictures])
    together = host(batch, host.padding_of(batch, sizes))
    for b, picture in enumerate(pictures):
        for whole, alone in zip(together, host(picture)):
            assert close([whole[b : b + 1, :, : alone.shape[2], : alone.shape[3]]], [alone])
