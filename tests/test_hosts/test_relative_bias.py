"""The relative bias of tokens that stand anywhere, against upstream's table look-up on the full grid."""

import pytest
import torch
from mmseg.models.backbones.beit import BEiTAttention

from mmtoken.core import Gather, TokenState
from mmtoken.hosts.beit import relative_bias

HEADS = 2
windows = pytest.mark.parametrize('window', [(4, 4), (3, 5), (1, 6), (5, 1), (1, 1)], ids=str)


def upstream_bias(attn):
    """``(heads, 1+N, 1+N)``, as BEiTAttention reads it, entry by entry."""
    index = attn.relative_position_index
    return torch.stack([torch.stack([attn.relative_position_bias_table[i] for i in row]) for row in index], 0).permute(
        2, 0, 1
    )


@pytest.fixture
def attention():

    def make(window):
        attn = BEiTAttention(8, HEADS, window)
        torch.nn.init.normal_(attn.relative_position_bias_table)
        return attn.double()

    return make


def look_up(attn, window, state):
    return relative_bias(attn.relative_position_bias_table, attn.relative_position_index, window, state.layout)


def reduced_state(window, centres, batch=1):
    """A state whose tokens were reduced to ones that stand at ``centres`` ``(B or 1, n, 2)``."""
    state = TokenState(torch.zeros(batch, 1 + window[0] * window[1], 8), window, 1)
    n = centres.shape[1]
    every = torch.zeros(1, window[0] * window[1], dtype=torch.int64)
    state.reduce(torch.zeros(batch, n, 8), Gather(every), coords=lambda _: centres, sizes=torch.ones(1, n))
    return state


def full_grid(window):
    h, w = window
    return torch.tensor([[[y, x] for y in range(h) for x in range(w)]], dtype=torch.float32)


@windows
def test_unreduced_is_upstreams_look_up(window, attention):
    attn = attention(window)
    state = TokenState(torch.zeros(2, 1 + window[0] * window[1], 8), window, 1)
    assert torch.equal(look_up(attn, window, state)[0], upstream_bias(attn))


@windows
def test_interpolation_at_the_patches_is_the_look_up(window, attention):
    attn = attention(window)
    got = look_up(attn, window, reduced_state(window, full_grid(window), batch=2))
    torch.testing.assert_close(got[0], upstream_bias(attn), rtol=0, atol=1e-5)


def test_a_subset_of_tokens_gets_the_sub_matrix_of_each_image(attention):
    window = (3, 5)
    attn = attention(window)
    keep = torch.tensor([[0, 3, 4, 9, 14], [1, 2, 5, 7, 11]])
    got = look_up(attn, window, reduced_state(window, full_grid(window)[0][keep], batch=2))
    assert got.shape == (2, HEADS, 6, 6)
    full = upstream_bias(attn)
    for image, kept in enumerate(keep.tolist()):
        rows = [0, *(1 + i for i in kept)]
        torch.testing.assert_close(got[image], full[:, rows][:, :, rows], rtol=0, atol=1e-5)


@pytest.mark.parametrize('counts', [(6, 2, 0), (0, 0, 0)], ids=str)
def test_each_image_of_a_ragged_batch_gets_its_own(counts, attention):
    window = (3, 5)
    attn = attention(window)
    state = TokenState(torch.zeros(3, 16, 8), window, 1)
    keep = torch.stack([torch.randperm(15) < count for count in counts])
    state.select(keep)
    got = look_up(attn, window, state)
    assert got.shape == (3, HEADS, 1 + max(counts), 1 + max(counts))
    for image, kept in enumerate(keep):
        rows = [0, *(1 + kept.nonzero()[:, 0]).tolist()]
        expected = upstream_bias(attn)[:, rows][:, :, rows]
        torch.testing.assert_close(got[image, :, : len(rows), : len(rows)], expected, rtol=0, atol=1e-5)


def test_between_patches_it_is_bilinear(attention):
    """Token a stands at (0.5, 0.25), b at (2, 3): the bias of (a, b) mixes the four offsets around (-1.5, -2.75)."""
    window = (3, 5)
    attn = attention(window)
    got = look_up(attn, window, reduced_state(window, torch.tensor([[[0.5, 0.25], [2.0, 3.0]]])))
    table = attn.relative_position_bias_table

    def at(dy, dx):
        return table[(dy + 2) * 9 + dx + 4]

    expected = 0.5 * (0.75 * at(-2, -3) + 0.25 * at(-2, -2)) + 0.5 * (0.75 * at(-1, -3) + 0.25 * at(-1, -2))
    torch.testing.assert_close(got[0, :, 1, 2], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(got[0, :, 1, 1], at(0, 0), rtol=0, atol=1e-6)
    mirrored = 0.5 * (0.75 * at(2, 3) + 0.25 * at(2, 2)) + 0.5 * (0.75 * at(1, 3) + 0.25 * at(1, 2))
    torch.testing.assert_close(got[0, :, 2, 1], mirrored, rtol=0, atol=1e-6)


def test_gradients_reach_the_table(attention):
    window = (3, 4)
    attn = attention(window)
    look_up(attn, window, reduced_state(window, torch.rand(1, 4, 2) * 2)).square().sum().backward()
    grad = attn.relative_position_bias_table.grad
    assert torch.isfinite(grad).all()
    assert (grad[-3:] != 0).all()  # the class token's own three rows
    assert (grad[:-3] != 0).any()
