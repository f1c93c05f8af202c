"""Rotary positions against complex numbers in plain loops."""

import cmath
import math

import pytest
import torch

from mmtoken.core import Packing, Rotation, rotary_dinov3, rotary_eva02, self_attention
from mmtoken.core.ops import grid_coords

HEAD = 8
GRIDS = [(16, 16), (5, 7), (3, 20)]


def close(a, b, tolerance=1e-5):
    return torch.allclose(a.double(), b.double(), atol=tolerance, rtol=tolerance)


def some_centres(grid, number=9, batch=2):
    """Centres anywhere on the grid, as those of merged tokens."""
    return torch.rand(batch, number, 2) * torch.tensor(grid, dtype=torch.float32) - 0.5


def eva02_angles(y, x, grid, head_dim, reference=(16, 16), temperature=10000.0):
    """Angle of each pair of channels: those of y, then those of x."""
    angles = []
    for position, side, before in zip((y, x), grid, reference):
        for j in range(head_dim // 4):
            angles.append(position / side * before * temperature ** (-4 * j / head_dim))
    return angles


def dinov3_angles(y, x, sides, head_dim, base=100.0):
    angles = []
    for position, side in zip((y, x), sides):
        for j in range(head_dim // 4):
            angles.append(2 * math.pi * (2 * (position + 0.5) / side - 1) / base ** (4 * j / head_dim))
    return angles


def slow_rotate(vector, angles, interleaved):
    """Each pair of channels as one complex number, turned by its angle."""
    vector, out = vector.tolist(), [0.0] * len(vector)
    for i, angle in enumerate(angles):
        first, second = (2 * i, 2 * i + 1) if interleaved else (i, i + len(vector) // 2)
        turned = complex(vector[first], vector[second]) * cmath.exp(1j * angle)
        out[first], out[second] = turned.real, turned.imag
    return torch.tensor(out, dtype=torch.float64)


def slow(x, coords, angles, interleaved):
    """Rotates tokens ``(B, n, heads, d)`` one vector at a time; ``angles`` makes those of a centre."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    for b in range(x.shape[0]):
        for i, (y, x_) in enumerate(coords[b % len(coords)].tolist()):
            for h in range(x.shape[2]):
                out[b, i, h] = slow_rotate(x[b, i, h], angles(y, x_), interleaved)
    return out


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('reference', [(16, 16), (14, 10), None])
@pytest.mark.parametrize('on_patches', [True, False])
def test_eva02_is_a_product_of_complex_numbers(grid, reference, on_patches):
    coords = grid_coords(grid, grid) if on_patches else some_centres(grid)
    x = torch.randn(2, coords.shape[1], 3, HEAD)
    rotation = rotary_eva02(coords, grid, HEAD, reference=reference, temperature=1000.0)
    expected = slow(x, coords, lambda y, x: eva02_angles(y, x, grid, HEAD, reference or grid, 1000.0), True)
    assert close(rotation(x), expected)


@pytest.mark.parametrize('grid', GRIDS)
@pytest.mark.parametrize('normalize', ['separate', 'max', 'min'])
@pytest.mark.parametrize('on_patches', [True, False])
def test_dinov3_is_a_product_of_complex_numbers(grid, normalize, on_patches):
    coords = grid_coords(grid, grid) if on_patches else some_centres(grid)
    x = torch.randn(2, coords.shape[1], 3, HEAD)
    sides = dict(separate=grid, max=[max(grid)] * 2, min=[min(grid)] * 2)[normalize]
    expected = slow(x, coords, lambda y, x: dinov3_angles(y, x, sides, HEAD, 50.0), False)
    # angles reach 2π·13 on the longer side of 'min', where fp32 knows them to 1e-5
    assert close(rotary_dinov3(coords, grid, HEAD, base=50.0, normalize=normalize)(x), expected, 5e-5)


def test_defaults_are_those_of_the_papers():
    coords, x = some_centres((32, 24)), torch.randn(2, 9, 1, HEAD)
    eva = slow(x, coords, lambda y, x: eva02_angles(y, x, (32, 24), HEAD), True)
    dino = slow(x, coords, lambda y, x: dinov3_angles(y, x, (32, 24), HEAD), False)
    assert close(rotary_eva02(coords, (32, 24), HEAD)(x), eva)
    assert close(rotary_dinov3(coords, (32, 24), HEAD)(x), dino)


def test_dinov3_takes_the_periods_of_a_checkpoint():
    coords, x = some_centres((4, 4)), torch.randn(2, 9, 1, HEAD)
    base = rotary_dinov3(coords, (4, 4), HEAD)
    same = rotary_dinov3(coords, (4, 4), HEAD, base=7.0, periods=torch.tensor([1.0, 10.0]))
    assert close(same(x), base(x))
    assert not close(rotary_dinov3(coords, (4, 4), HEAD, periods=torch.tensor([1.0, 11.0]))(x), base(x), 1e-3)


MAKERS = dict(eva02=rotary_eva02, dinov3=rotary_dinov3)


@pytest.mark.parametrize('name', MAKERS)
def test_norm_is_kept(name):
    x = torch.randn(2, 9, 3, HEAD)
    turned = MAKERS[name](some_centres((6, 9)), (6, 9), HEAD)(x)
    assert close(turned.norm(dim=-1), x.norm(dim=-1)) and not close(turned, x, 1e-2)


@pytest.mark.parametrize('name', MAKERS)
def test_scores_depend_on_the_difference_of_positions_only(name):
    grid, coords = (12, 9), some_centres((12, 9), batch=1)
    q, k = torch.randn(2, 1, 9, 1, HEAD).unbind(0)

    def scores(*moved):
        rotation = MAKERS[name](coords + torch.tensor(moved), grid, HEAD)
        return (rotation(q)[:, :, 0] @ rotation(k)[:, :, 0].transpose(1, 2))[0]

    assert close(scores(0.0, 0.0), scores(3.25, -1.5))
    one_moves = MAKERS[name](coords + torch.tensor([3.25, -1.5]), grid, HEAD)
    still = MAKERS[name](coords, grid, HEAD)
    assert not close((one_moves(q)[0, :, 0] @ still(k)[0, :, 0].T), scores(0.0, 0.0), 1e-2)


def rotated_attention(qkv, rotation, prefix, heads=3):
    """Explicit attention of one image, the prefix left alone."""
    q, k, v = qkv.double().unflatten(-1, (3, heads, -1)).unbind(-3)
    q, k = (torch.cat([t[:prefix], rotation(t[None, prefix:])[0]]) for t in (q, k))
    scores = torch.einsum('qhd,khd->hqk', q, k) * q.shape[-1] ** -0.5
    return torch.einsum('hqk,khd->qhd', scores.softmax(-1), v).flatten(-2)


@pytest.mark.parametrize('name', MAKERS)
@pytest.mark.parametrize('prefix', [0, 1, 5])
@pytest.mark.parametrize('shared', [True, False])
def test_self_attention_rotates_patches_and_spares_the_prefix(name, prefix, shared):
    grid, coords = (4, 6), some_centres((4, 6), batch=1 if shared else 2)
    qkv = torch.randn(2, prefix + 9, 9 * HEAD)
    rotation = MAKERS[name](coords, grid, HEAD)
    out, keys = self_attention(qkv, 3, rotate=rotation)
    for i in range(2):
        own = MAKERS[name](coords[0 if shared else i][None].double(), grid, HEAD)
        assert close(out[i], rotated_attention(qkv[i], own, prefix))
    assert torch.equal(keys, qkv.unflatten(-1, (3, 3, -1))[:, :, 1]), 'ToMe matches on keys without position'
    full = rotation.with_prefix(prefix + 9)
    x = torch.randn(2, prefix + 9, 3, HEAD)
    assert torch.equal(full(x)[:, :prefix], x[:, :prefix]) and torch.equal(full(x)[:, prefix:], rotation(x[:, prefix:]))


@pytest.mark.parametrize('name', MAKERS)
@pytest.mark.parametrize('prefix', [0, 2])
@pytest.mark.parametrize('numbers', [(5, 1, 9), (4, 4, 4), (3, 0, 2)])
def test_a_packed_batch_is_rotated_as_its_images(name, prefix, numbers):
    grid = (4, 6)
    coords = [some_centres(grid, n, 1) for n in numbers]
    qkv = [torch.randn(1, prefix + n, 9 * HEAD) for n in numbers]
    packed = MAKERS[name](torch.cat(coords, 1)[0], grid, HEAD)
    lengths = torch.tensor(numbers) + prefix
    for given in (lengths, Packing(lengths)):
        out, _ = self_attention(torch.cat(qkv, 1)[0], 3, lengths=given, rotate=packed)
        alone = [
            self_attention(t, 3, rotate=MAKERS[name](c, grid, HEAD))[0][0] for t, c in zip(qkv, coords) if t.numel()
        ]
        assert close(out, torch.cat(alone))


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)])
def test_precision_of_the_tokens_is_kept(dtype, tolerance):
    coords, x = some_centres((4, 6)), torch.randn(2, 9, 3, HEAD).to(dtype)
    rotation = rotary_eva02(coords, (4, 6), HEAD)
    assert rotation(x).dtype == dtype
    assert close(rotation(x), rotary_eva02(coords.double(), (4, 6), HEAD)(x.double()), tolerance)


def test_errors_say_what_would_be_right():
    coords = some_centres((4, 6))
    for make in MAKERS.values():
        with pytest.raises(ValueError, match='head_dim=6.*multiple of 4'):
            make(coords, (4, 6), 6)
    with pytest.raises(ValueError, match="normalize='longest'.*'max'"):
        rotary_dinov3(coords, (4, 6), HEAD, normalize='longest')
    rotation = rotary_eva02(coords, (4, 6), HEAD)
    with pytest.raises(ValueError, match='9 rows for 8 tokens'):
        self_attention(torch.randn(2, 8, 9 * HEAD), 3, rotate=rotation)
    packed = Rotation(rotation.sin[0], rotation.cos[0], True)
    for lengths in ((3, 5), (6, 4)):
        with pytest.raises(ValueError, match=f'9 rows for {sum(lengths)} tokens of 2 images'):
            self_attention(torch.randn(sum(lengths), 9 * HEAD), 3, lengths=torch.tensor(lengths), rotate=packed)


class Rotated(torch.nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, qkv, coords):
        return self_attention(qkv, 3, rotate=self.make(coords, (4, 6), HEAD))[0]


@pytest.mark.parametrize('name', MAKERS)
def test_compiles_as_one_graph_and_exports(name):
    module, inputs = Rotated(MAKERS[name]), (torch.randn(2, 11, 9 * HEAD), some_centres((4, 6)))
    expected = module(*inputs)
    assert close(torch.compile(module, fullgraph=True, backend='eager')(*inputs), expected)
    assert close(torch.export.export(module, inputs).module()(*inputs), expected)


@pytest.mark.parametrize('name', MAKERS)
def test_gradients(name):
    rotation = MAKERS[name](some_centres((4, 6), batch=1).double(), (4, 6), HEAD)
    x = torch.randn(2, 9, 2, HEAD, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotation, x)
