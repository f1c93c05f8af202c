"""What every method owes every host: identity, shapes, exact batches, half precision."""

import pytest
import torch

from mmtoken.core import Reducer, TokenState

from .cases import (
    METHODS,
    PAIRS,
    SIZES,
    SQUARE,
    TAPS,
    bound,
    close,
    drive,
    equal,
    images,
    lacks,
    prefix_rows,
    run,
    tokens,
)


@pytest.mark.parametrize('name', METHODS)
def test_a_method_brings_what_its_tests_need(name):
    assert issubclass(METHODS[name], Reducer) and not lacks(name)


def test_a_method_says_what_it_is(method):
    kind = METHODS[method]
    assert len(kind.examples) >= 2, 'from least to most reduction'
    assert any(case.method == method for case in PAIRS), 'some host takes it'
    reducer = bound(method, kind.examples[0])
    assert kind.trainable or not list(reducer.parameters())
    assert kind.trainable or reducer.losses(TokenState(tokens(), (7, 9))) == {}


@pytest.mark.parametrize('size', SIZES)
def test_reducing_nothing_is_bit_equal(case, size):
    inputs = images(3, size)
    host = case.build(case.type.identity_example, size=size, out_indices=TAPS)
    dense = case.dense(size=size, out_indices=TAPS)
    assert equal(run(host, inputs), run(dense, inputs))
    assert host.token_counts(inputs) == dense.token_counts(inputs)


@pytest.mark.parametrize('size', SIZES)
def test_every_tap_gets_the_full_grid(rung, size):
    inputs = images(2, size)
    dense = run(rung.dense(size=size, out_indices=TAPS), inputs)
    reduced = run(rung.build(size=size, out_indices=TAPS), inputs)
    assert [out.shape for out in reduced] == [out.shape for out in dense]
    assert all(out.isfinite().all() for out in reduced)
    assert not torch.equal(reduced[-1], dense[-1]), 'it must reduce something'


@pytest.mark.parametrize('size', [SQUARE, (20, 36)])
def test_a_batch_is_its_images(rung, size):
    inputs, host = images(4, size), rung.build(size=size, out_indices=TAPS)
    together = run(host, inputs)
    alone = [run(host, inputs[b : b + 1]) for b in range(4)]
    # Kernels for one image and for four round differently, and soft k-means enlarges that.
    assert close(together, [torch.cat(outs) for outs in zip(*alone)], 3e-5)


def test_the_order_of_a_batch_does_not_matter(rung):
    inputs, host, order = images(4), rung.build(), torch.tensor([2, 0, 3, 1])
    assert close(run(host, inputs[order]), [out[order] for out in run(host, inputs)])


def test_two_runs_are_bit_equal(rung):
    inputs, host = images(), rung.build(out_indices=TAPS)
    assert equal(run(host, inputs), run(host, inputs))
    assert equal(run(host, inputs), run(rung.new(out_indices=TAPS), inputs))


def test_prefix_tokens_stay_where_and_what_they_are(method):
    for args in (METHODS[method].identity_example, *METHODS[method].examples):
        x = tokens(num_prefix=3)
        state = TokenState(x.clone(), (7, 9), 3)
        for _ in drive(bound(method, args), state):
            assert torch.equal(prefix_rows(state), x[:, :3])
        assert state.dense().shape == (2, 63, 32)


def test_what_padding_holds_does_not_matter(method):
    """To the method: restored real tokens are the same. (Attention sees padding, as in the dense host.)"""
    padding = torch.zeros(2, 7, 9, dtype=torch.bool)
    padding[0, 5:], padding[0, :, 6:], padding[1, 6:] = True, True, True
    if METHODS[method].start is not Reducer.start:
        pytest.skip('reduces where tokens are made of pictures, which this test does without')
    padding = padding.flatten(1)
    for args in METHODS[method].examples:
        results = []
        for fill in (None, 3.0, -40.0):
            x = tokens(num_prefix=1)
            if fill is not None:
                x[:, 1:][padding] = fill
            state = TokenState(x, (7, 9), 1, padding=padding)
            reduced = False
            for _ in drive(bound(method, args), state):
                reduced = reduced or bool(state.trail)
            assert reduced
            results.append(state.dense()[~padding])
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('autocast', [False, True])
def test_half_precision_is_finite(rung, dtype, autocast):
    host, inputs = rung.new(out_indices=TAPS), images()
    if not autocast:
        host, inputs = host.to(dtype), inputs.to(dtype)
    with torch.autocast('cpu', dtype=dtype, enabled=autocast):
        outs = run(host, inputs)
    assert all(out.isfinite().all() for out in outs)
    assert autocast or all(out.dtype == dtype for out in outs)
