"""The decoder equals its equations, written out for one query, head and token after the other."""

import math

import pytest
import torch

from mmtoken.core import Layout, Packing, Tokens
from mmtoken.hmr.model.decoder import DABDecoder, mlp, start_mlp
from mmtoken.hmr.model.memory import Memory, TokenMemory, sine
from mmtoken.testing import randomize

DIMS, HEADS = 16, 2


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    made = DABDecoder(DIMS, 2, HEADS, 24)
    randomize(made)
    return made.double()


def memory_of(*lengths):
    x, position = (torch.randn(sum(lengths), DIMS, dtype=torch.float64) for _ in range(2))
    return Memory(x, position, Packing(torch.tensor(lengths)))


def test_sine_code():
    code = sine(torch.tensor([[0.25, 0.5]]), 4)
    w = 2 * math.pi / 20**0.5
    expected = [1, 0, math.sin(w / 4), math.cos(w / 4), 0, -1, math.sin(w / 2), math.cos(w / 2)]
    torch.testing.assert_close(code[0], torch.tensor(expected))


def softmax_sum(q, keys, values):
    """One head of attention of one query, by loops."""
    scores = torch.stack([(q * k).sum() / len(q) ** 0.5 for k in keys])
    return (scores.softmax(0)[:, None] * torch.stack(list(values))).sum(0)


def reference(decoder, x, anchors, memory, mask):
    """Conditional DETR's attention and DAB-DETR's anchors for one picture, in loops; x ``(Q, C)``."""
    half, width = DIMS // 2, DIMS // HEADS
    hidden, boxes = [], []
    for n, layer in enumerate(decoder.layers):
        box = anchors.sigmoid()
        code = torch.stack([torch.cat([sine(b[[i]], half) for i in (1, 0, 2, 3)]) for b in box]).double()
        position = decoder.query_position(code)
        code = code[:, :DIMS]
        if n:
            code = code * decoder.query_scale(x)
        wanted = decoder.anchor_size(x).sigmoid()
        code = torch.cat([code[:, :half] * wanted[:, 1:] / box[:, 3:], code[:, half:] * wanted[:, :1] / box[:, 2:3]], 1)

        attn, y = layer.self_attn, layer.norm1(x)
        q, k = attn.q_content(y) + attn.q_position(position), attn.k_content(y) + attn.k_position(position)
        out = torch.zeros_like(x)
        for i in range(len(x)):
            seen = [j for j in range(len(x)) if mask is None or mask[i, j] == 0]
            for h in range(HEADS):
                part = slice(h * width, (h + 1) * width)
                out[i, part] = softmax_sum(q[i, part], k[seen][:, part], attn.value(y)[seen][:, part])
        x = x + attn.out(out)

        attn, y = layer.cross_attn, layer.norm2(x)
        q, k, place = attn.q_content(y), attn.k_content(memory.x), attn.k_position(memory.position)
        if n == 0:
            q, k = q + attn.q_position(position), k + place
        s = attn.q_sine(code)
        out = torch.zeros_like(x)
        for i in range(len(x)):
            for h in range(HEADS):
                part = slice(h * width, (h + 1) * width)
                keys = torch.cat([k[:, part], place[:, part]], 1)
                out[i, part] = softmax_sum(torch.cat([q[i, part], s[i, part]]), keys, attn.value(memory.x)[:, part])
        x = x + attn.out(out)
        x = x + layer.ffn[2](layer.ffn[0](layer.norm3(x)).relu())
        hidden.append(decoder.norm(x))
        anchors = anchors + decoder.boxes[n](hidden[-1])
        boxes.append(anchors.sigmoid())
    return torch.stack(hidden), torch.stack(boxes)


def test_decoder_is_its_equations(decoder):
    x, anchors = torch.randn(1, 3, DIMS, dtype=torch.float64), torch.randn(1, 3, 4, dtype=torch.float64)
    memory = memory_of(5)
    mask = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    mask[..., 2, 0] = mask[..., 0, 1] = float('-inf')
    hidden, boxes = decoder(x, anchors, memory, mask)
    expected = reference(decoder, x[0], anchors[0], memory, mask[0, 0])
    torch.testing.assert_close(hidden[:, 0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(boxes[:, 0].double(), expected[1], atol=1e-5, rtol=1e-5)


def test_pictures_of_unequal_token_counts_do_not_mix(decoder):
    x, anchors, memory = torch.randn(2, 3, DIMS).double(), torch.randn(2, 3, 4), memory_of(5, 2)
    both = decoder(x, anchors, memory)
    for i, part in enumerate((slice(0, 5), slice(5, 7))):
        alone = Memory(memory.x[part], memory.position[part], Packing(torch.tensor([part.stop - part.start])))
        single = decoder(x[i : i + 1], anchors[i : i + 1], alone)
        for a, b in zip(both, single):
            torch.testing.assert_close(a[:, i], b[:, 0])


def test_boxes_start_as_the_anchors(decoder):
    decoder.init_weights()
    anchors = torch.randn(1, 3, 4)
    boxes = decoder(torch.randn(1, 3, DIMS).double(), anchors, memory_of(4))[1]
    torch.testing.assert_close(boxes, anchors.sigmoid().expand_as(boxes))


def test_every_head_starts_by_looking_around_the_anchor():
    torch.manual_seed(0)
    decoder = DABDecoder(64, 2, 4, 24)
    decoder.init_weights()
    centre = torch.tensor([0.3, 0.7])  # y, x
    places = torch.cat([centre[None], centre + torch.randn(50, 2) * 0.2])
    code, keys = (sine(p, 32) for p in (centre, places))
    for layer in decoder.layers:
        q, k = layer.cross_attn.q_sine(code), layer.cross_attn.k_position(keys)
        scores = (q * k).unflatten(-1, (4, -1)).sum(-1)  # (tokens, heads)
        assert (scores.argmax(0) == 0).all()
        for axis in (0, 1):  # each head tells both axes
            moved = layer.cross_attn.k_position(sine(centre + 0.2 * torch.eye(2)[axis], 32))
            assert ((q * moved).unflatten(-1, (4, -1)).sum(-1) < scores[0] - 0.1).all()
    torch.testing.assert_close(decoder.query_scale(torch.randn(9, 64)), torch.ones(9, 64), atol=0.8, rtol=0)


@pytest.mark.parametrize('depth', [2, 6])
def test_what_enters_layers_comes_out_of_them(depth):
    torch.manual_seed(0)
    layers = mlp(128, 128, 128, depth)
    start_mlp(layers, gain=1.0)
    assert 0.4 < layers(torch.randn(64, 128)).std(0).mean() < 2.5
    start_mlp(layers, gain=0.0)
    assert not layers(torch.randn(2, 128)).any()


def test_each_layer_refines_the_boxes_of_the_one_before_and_learns_alone(decoder):
    anchors = torch.randn(1, 3, 4, requires_grad=True)
    boxes = decoder(torch.randn(1, 3, DIMS).double(), anchors, memory_of(4))[1]
    assert (boxes[1] - boxes[0]).abs().min() > 0
    first = torch.autograd.grad(boxes[1].sum(), list(decoder.boxes[0].parameters()), allow_unused=True)
    assert all(g is None or not g.any() for g in first), 'the second layer takes the boxes as they are'


def test_memory_knows_place_and_resolution():
    torch.manual_seed(0)
    memory = TokenMemory(6, DIMS, levels=2)
    memory.init_weights()
    layout = Layout((4, 4), make_coords=torch.tensor([[[0.0, 1], [0.5, 2.5]]]), make_sizes=torch.tensor([[1.0, 4]]))
    tokens = Tokens.of(torch.randn(1, 2, 6), layout)
    assert tokens.levels.tolist() == [0, 1]
    made = memory(tokens, patch_size=14, side=56)
    centres = torch.tensor([[0.125, 0.375], [0.25, 0.75]])  # y, x in parts of the side
    torch.testing.assert_close(made.position, sine(centres, DIMS // 2) + memory.level)
    torch.testing.assert_close(made.x, memory.project(tokens.x))


def test_tokens_leave_padding_out():
    padding = torch.tensor([[False, True, False], [False, False, False]])
    layout = Layout((1, 3), raster=(1, 3), padding=padding)
    x = torch.randn(2, 3, 4)
    tokens = Tokens.of(x, layout)
    assert tokens.packing.sizes == [2, 3]
    assert torch.equal(tokens.x, x[~padding]) and tokens.coords[:, 1].tolist() == [0, 2, 0, 1, 2]
