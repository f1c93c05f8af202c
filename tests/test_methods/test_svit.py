"""SViT against a plain loop over images and blocks, its gates and its loss against their definitions."""

import pytest
import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from torch import nn

from mmtoken.core import HostInfo, TokenState, build_reducer
from mmtoken.methods.svit import SViT
from mmtoken.testing import toy_hosts

HOSTS = toy_hosts()


def images(batch=3, size=(24, 40)):
    pictures = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))
    return pictures * torch.linspace(0.3, 2, batch).view(-1, 1, 1, 1)


def build(host='TokenDINOv2', **args):
    torch.manual_seed(0)
    made = HOSTS[host](reducer=dict(type='mmtoken.SViT', **{**dict(skip=1), **args}), out_indices=(0, 1, 2, 3))
    made.served = True
    return made


# ---------------------------------------------------------------------- gates
def test_a_gate_of_the_paper():
    """LayerNorm, C to C/4, GELU, C/4 to 2: 37,922 parameters at 384 channels; nine gates after three blocks."""
    reducer = SViT()
    reducer.bind(HostInfo(12, 384, 6, (11,)))
    assert [sum(p.numel() for p in gate.parameters()) for gate in reducer.gates] == [37922] * 9
    assert [type(part) for part in reducer.gates[0]] == [nn.LayerNorm, nn.Linear, nn.GELU, nn.Linear]
    assert reducer.targets == [0.7] * 3 + [0.49] * 3 + [0.343] * 3


@pytest.mark.parametrize(
    'keep, gates, expected',
    [
        (None, 4, [0.7, 0.7, 0.49, 0.343]),
        (0.5, 3, [0.5, 0.5, 0.5]),
        ((0.9, 0.5), 4, [0.9, 0.9, 0.5, 0.5]),
        ([0.9, 0.7, 0.5], 3, [0.9, 0.7, 0.5]),
    ],
    ids=str,
)
def test_parts_asked_for(keep, gates, expected):
    reducer = SViT(skip=2, keep=keep)
    reducer.bind(HostInfo(gates + 2, 32, 2, (0,)))
    assert reducer.targets == expected


# ---------------------------------------------------------------------- the pass
@torch.no_grad()
def one_by_one(host, image, skip, threshold=0.5):
    """Maps after each block of one image, and the tokens that each block updated."""
    state = host.embed(image)
    x, first, maps, chosen = state.x, state.num_prefix, [], []
    for i, block in enumerate(host.blocks):
        rows = torch.arange(x.shape[1])
        if i >= skip:
            gate = host.reducer.gates[i - skip](x[0, first:]).softmax(-1)[:, 0]
            rows = torch.cat([rows[:first], first + (gate >= threshold).nonzero()[:, 0]])
            chosen.append(set(rows[first:].tolist()))
        part, _ = host.attend(block, x[:, rows], TokenState(x[:, rows[:0]], (0, 0)).layout)
        x = x.index_copy(1, rows, host.mlp(block, part))
        maps.append(host.out_norm(x[:, first:], i))
    return maps, chosen


@pytest.mark.parametrize('skip', [0, 1, 3])
@pytest.mark.parametrize('name', ['TokenDINOv2', 'TokenVisionTransformer'])
@torch.no_grad()
def test_a_batch_is_a_loop_over_images_and_blocks(name, skip):
    host, inputs = build(name, skip=skip), images()
    outs, back = host(inputs), 0
    for b in range(3):
        maps, chosen = one_by_one(host, inputs[b : b + 1], skip)
        for out, expected in zip(outs, maps, strict=True):
            torch.testing.assert_close(out[b].flatten(1).t(), expected[0], rtol=0, atol=3e-5)
        back += sum(len(later - earlier) for earlier, later in zip(chosen, chosen[1:]))
        assert all(0 < len(some) < 60 for some in chosen)
    assert back > 0 or skip == 3, 'tokens that waited must come back somewhere'


@torch.no_grad()
def test_the_threshold_trades_tokens_and_zero_is_the_dense_backbone():
    inputs = images()
    few, many, all_of_them = (build(threshold=t) for t in (0.6, 0.4, 0.0))
    assert sum(few.token_counts(inputs)) < sum(many.token_counts(inputs)) < sum(all_of_them.token_counts(inputs))
    dense = HOSTS['TokenDINOv2'](out_indices=(0, 1, 2, 3))
    dense.load_state_dict(all_of_them.state_dict(), strict=False)
    assert all(torch.equal(a, b) for a, b in zip(all_of_them(inputs), dense(inputs)))


@torch.no_grad()
def test_padding_is_never_chosen():
    host, inputs = build(threshold=0.0001), images(2)
    padding = torch.zeros(2, 6, 10, dtype=torch.bool)
    padding[0, :, 7:] = True
    state = host.forward_tokens(inputs, padding)[1]
    for chosen in state.aux[host.reducer].chosen:
        assert not chosen.view(2, 6, 10)[0, :, 7:].any() and chosen.view(2, 6, 10)[0, :, :7].all() and chosen[1].all()
    host.train()
    state = host.forward_tokens(inputs, padding)[1]
    assert all(chosen.detach()[padding.flatten(1)].eq(0).all() for chosen in state.aux[host.reducer].chosen)


@torch.no_grad()
def test_training_hides_what_test_mode_leaves_out(monkeypatch):
    """With the same choice, masked keys and packed rows give the same maps."""
    host, inputs = build(), images()
    expected = host(inputs)

    def likelier(logits, tau, hard):
        return F.one_hot(logits.argmax(-1), 2).float()

    monkeypatch.setattr(F, 'gumbel_softmax', likelier)
    host.train()
    for out, want in zip(host(inputs), expected, strict=True):
        torch.testing.assert_close(out, want, rtol=0, atol=3e-5)


def test_choices_are_drawn_in_training_and_have_the_gradient_of_the_gate():
    host, inputs = build().train(), images()
    drawn = [host.forward_tokens(inputs)[1].aux[host.reducer].chosen for _ in range(2)]
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert all(((c == 0) | ((c - 1).abs() < 1e-6)).all() for c in drawn[0])
    (host(inputs)[-1] * torch.randn(3, 32, 6, 10)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for gate in host.reducer.gates for p in gate.parameters())


def test_an_image_of_which_nothing_is_chosen_keeps_its_tokens():
    for training in (False, True):
        host = build()
        for gate in host.reducer.gates:
            nn.init.zeros_(gate.choose.weight)
            gate.choose.bias.data = torch.tensor([-60.0, 60.0])
        host.train(training)
        with torch.no_grad():
            outs, state = host.forward_tokens(images(2))
        assert all(not chosen.any() for chosen in state.aux[host.reducer].chosen)
        assert all(torch.equal(out, outs[0]) for out in outs[1:])


# ---------------------------------------------------------------------- the loss
@pytest.mark.parametrize('per_image', [False, True])
def test_the_loss_is_on_the_parts_of_real_tokens(per_image):
    host, inputs = build(per_image=per_image, keep=(0.6, 0.5, 0.4)).train(), images(2)
    padding = torch.zeros(2, 6, 10, dtype=torch.bool)
    padding[0, 4:] = True
    state = host.forward_tokens(inputs, padding)[1]
    losses = host.reducer.losses(state, [SegDataSample()] * 2)
    total = 0.0
    for chosen, asked in zip(state.aux[host.reducer].chosen, (0.6, 0.5, 0.4)):
        counts = chosen.detach().sum(1).tolist()
        if per_image:
            total += ((counts[0] / 40 - asked) ** 2 + (counts[1] / 60 - asked) ** 2) / 2
        else:
            total += (sum(counts) / 100 - asked) ** 2
    assert losses['loss_ratio'].item() == pytest.approx(4 * total / 3, rel=1e-4)
    losses['loss_ratio'].backward()
    assert all(gate.choose.weight.grad.abs().sum() > 0 for gate in host.reducer.gates)


def test_gates_learn_the_part_that_is_asked_for():
    host, inputs = build(keep=0.2).train(), images(2)
    optimizer = torch.optim.Adam(host.reducer.parameters(), 0.02)
    for _ in range(40):
        loss = host.reducer.losses(host.forward_tokens(inputs)[1])['loss_ratio']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        parts = [host.reducer.losses(host.forward_tokens(inputs)[1])['chosen'].item() for _ in range(8)]
    assert sum(parts) / 8 == pytest.approx(0.2, abs=0.08)


# ---------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    'args, message',
    [
        (dict(skip=-1), 'skip=-1'),
        (dict(skip=True), 'skip=True'),
        (dict(keep=0), r'keep=0 must be a number in \(0, 1\]'),
        (dict(keep=[]), r'keep=\[\] must be a list'),
        (dict(keep=[0.5, 'a']), "keep='a'"),
        (dict(threshold=1.5), r'threshold=1\.5'),
        (dict(temperature=0), 'temperature=0'),
        (dict(weight=-1), 'weight=-1'),
        (dict(per_image=1), 'per_image=1'),
    ],
    ids=str,
)
def test_arguments_that_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        build_reducer(dict(type='mmtoken.SViT', **args))


def test_depths_and_lists_that_are_refused():
    with pytest.raises(ValueError, match=r'reducer\.skip=4 leaves none of the 4 blocks a gate'):
        build(skip=4)
    with pytest.raises(ValueError, match=r'keep=\[0\.9, 0\.5\] has 2 entries for 3 gates'):
        build(keep=(0.9, 0.5))
    merging = HOSTS['TokenDINOv2'](reducer=[dict(type='mmtoken.SViT', skip=1), dict(type='mmtoken.ToMe', r=4)])
    merging.served = True
    for training in (False, True):
        with pytest.raises(ValueError, match='reducer (ToMe needs equally many|SViT: another method reduces)'):
            merging.train(training)(images())
