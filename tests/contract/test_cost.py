"""What tokens and multiply-adds a method saves, and where it may be searched."""

from math import prod

import pytest

from mmtoken.analysis.flops import count_macs
from mmtoken.testing import DEPTH, PATCH

from .cases import SQUARE, images, info, run


def test_every_setting_worth_a_search_builds_and_runs(case):
    import optuna

    from mmtoken.analysis.search import draw

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    given = case.type.identity_example
    host = case.build(given)
    space = host.reducer.search_space(host.info())
    if not space:
        pytest.skip('this method leaves the search space to the user')
    inputs, seen = images(2, (24, 40)), set()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(4):
        trial = study.ask()
        args = {key: draw(trial, key, values) for key, values in space.items()}
        host = case.build({**given, **args}, size=(24, 40))
        assert all(out.isfinite().all() for out in run(host, inputs))
        seen.add(sum(host.token_counts(inputs)))
        study.tell(trial, 0.0)
    assert len(seen) > 1, 'it must trade something'


def test_token_counts_never_grow_and_fall_from_example_to_example(case):
    """Blocks of a pyramid's later stages cost other than the first ones: there examples need not be a ladder.

    A method may let all tokens join again before the last block.
    """
    inputs, told = images(2, (24, 40)), info(case.host)
    everything, totals = case.dense(size=(24, 40)).token_counts(inputs), []
    starts = [stage.first for stage in told.stages]
    for args in (case.type.identity_example, *case.type.examples):
        counts = case.build(args, size=(24, 40)).token_counts(inputs)
        assert len(counts) == DEPTH
        whole = [*starts, DEPTH - 1] if counts[-1] == everything[-1] else starts
        fresh = range(DEPTH) if case.type.reactivates else whole
        before = [everything[i] if i in fresh else counts[i - 1] for i in range(DEPTH)]
        least = 0 if case.type.reactivates else 1  # of tokens that come back, a block may take none
        assert all(least <= after <= few for few, after in zip(before, counts))
        totals.append(sum(counts))
    assert totals[0] == sum(everything)
    assert all(less < totals[0] for less in totals[1:]), totals
    assert len(starts) > 1 or all(less < more for more, less in zip(totals, totals[1:])), totals


@pytest.mark.parametrize('size', [SQUARE, (24, 40), (20, 36)])
def test_token_counts_are_those_on_paper(rung, size):
    if rung.type.dynamic or not info(rung.host).is_plain:
        pytest.skip('the closed form of what differs between pictures, or stages, is held against a pass')
    host, grid = rung.build(size=size), tuple(side // PATCH for side in size)
    paper = host.reducer.closed_form(host.info(), grid).mlp
    counts = host.token_counts(images(2, size))
    assert counts == [sum(block) if isinstance(block, tuple) else block for block in paper]
    assert max(counts) <= prod(grid)


def test_macs_fall_from_example_to_example(case):
    """The first examples may cost more than they save at 32 channels; the last must not."""
    macs = [count_macs(case.build(args), images(2)).total for args in case.type.examples]
    assert len(info(case.host).stages) > 1 or all(less < more for more, less in zip(macs, macs[1:])), macs
    assert macs[-1] < count_macs(case.dense(), images(2)).total
