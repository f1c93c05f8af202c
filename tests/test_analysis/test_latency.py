"""Timing in turns: order, pairing, statistics."""

import gc
import time

import pytest
import torch

import mmtoken
from mmtoken.analysis import environment, interleave, paired_ratio, spread
from mmtoken.analysis.latency import whole_rounds


def test_turns_rotate_and_all_get_the_same_input():
    seen = []
    calls = {name: lambda x, name=name: seen.append((name, x)) for name in 'abc'}
    ticks = []
    seconds = interleave(calls, rounds=4, warmup=1, inputs=[10, 20], progress=lambda: ticks.append(len(seen)))
    assert ticks == list(range(1, 16))  # after each call
    assert [name for name, _ in seen] == list('abc' + 'abc' + 'bca' + 'bca' + 'cab')
    assert [x for _, x in seen[3:]] == [10] * 3 + [20] * 3 + [10] * 3 + [20] * 3
    assert list(seconds) == list('abc') and all(len(samples) == 4 for samples in seconds.values())


@pytest.mark.parametrize('models', [1, 2, 3, 4])
@pytest.mark.parametrize('inputs', [1, 2, 3, 4])
def test_each_model_goes_first_equally_often_with_each_input(models, inputs):
    seen = []
    calls = {name: lambda x, name=name: seen.append((name, x)) for name in 'abcd'[:models]}
    interleave(calls, rounds=models * inputs, warmup=0, inputs=range(inputs))
    first = seen[::models]
    assert len(set(first)) == models * inputs == len(first)


def test_inputs_of_unlike_cost():
    base, other = [1.0, 9.0] * 4, [1.0, 3.0] * 4
    assert paired_ratio(base, other, inputs=2) == pytest.approx(dict(ratio=10 / 4, low=10 / 4, high=10 / 4))
    drift = [1, 1, 2, 2, 5, 5, 7, 7]  # of the machine, which the pairs share
    slow = paired_ratio([b * d for b, d in zip(base, drift)], [o * d for o, d in zip(other, drift)], inputs=2)
    assert slow['ratio'] == pytest.approx(10 / 4) and slow['low'] < 10 / 4 < slow['high']
    noisy = paired_ratio([1.0, 9.0] * 9, [x for n in range(9) for x in (1 + n / 20, 3 + n / 10)], inputs=2)
    assert noisy['low'] < noisy['ratio'] < noisy['high'] < 2.6
    with pytest.raises(ValueError, match='3 samples are not equally many of each of 2'):
        paired_ratio([1.0] * 3, [1.0] * 3, inputs=2)
    assert [whole_rounds(rounds, inputs) for rounds, inputs in [(7, 1), (5, 8), (17, 8), (24, 8)]] == [7, 16, 24, 24]


def test_samples_are_seconds_and_the_faster_one_is_faster():
    seconds = interleave({'slow': lambda: time.sleep(0.008), 'fast': lambda: time.sleep(0.002)}, rounds=5, warmup=0)
    assert 0.008 <= spread(seconds['slow'])['median'] < 0.1
    assert paired_ratio(seconds['slow'], seconds['fast'])['low'] > 1


def test_garbage_is_not_collected_in_a_sample_and_as_before_afterwards():
    states = []
    interleave({'a': lambda: states.append(gc.isenabled())}, rounds=2, warmup=0)
    assert states == [False, False] and gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        interleave({'a': lambda: 1 / 0}, rounds=1, warmup=0)
    assert gc.isenabled()


def test_pairs_cancel_a_machine_that_drifts():
    base = [1.0, 2.0, 4.0, 8.0]
    ratio = paired_ratio(base, [b / 1.5 for b in base])
    assert ratio == pytest.approx(dict(ratio=1.5, low=1.5, high=1.5))
    noisy = paired_ratio([1.0] * 9, [0.5, 0.5, 0.5, 0.6, 0.6, 0.7, 0.7, 0.7, 0.8])
    assert noisy['ratio'] == pytest.approx(1 / 0.6)
    assert noisy['low'] < noisy['ratio'] < noisy['high']
    with pytest.raises(ValueError):
        paired_ratio([1.0], [1.0, 2.0])


def test_spread():
    assert spread(range(21)) == dict(median=10, p5=1, p95=19)
    assert spread([3.0]) == dict(median=3, p5=3, p95=3)


def test_nothing_to_time():
    with pytest.raises(ValueError, match='at least one'):
        interleave({})


def test_environment_names_the_machine():
    about = environment('cpu')
    assert about['device'] and about['torch'] == torch.__version__ and about['threads'] == torch.get_num_threads()
    assert about['versions']['mmtoken'] == mmtoken.__version__ and len(about['versions']) > 3


@pytest.mark.gpu
def test_cuda_samples_wait_for_the_device():
    x = torch.randn(2048, 2048, device='cuda')

    def work(times):
        for _ in range(times):
            x @ x

    seconds = interleave({'one': lambda: work(1), 'ten': lambda: work(20)}, rounds=10, device='cuda')
    assert 5 < 1 / paired_ratio(seconds['one'], seconds['ten'])['ratio'] < 40
