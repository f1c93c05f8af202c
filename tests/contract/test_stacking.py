"""Several methods on one host: each works on what those before it left."""

import pytest
import torch

from mmtoken.core import GridReducer, Reducer
from mmtoken.testing import SIDE

from .cases import COMPLETE, HOSTS, METHODS, PAIRS, TAPS, close, images, info, run


@pytest.mark.parametrize('other', ['AvgPool', 'itself'])
def test_reducers_stack(case, other):
    """Each works on what those before it left, and the taps get the full grid through all of them."""
    kind, args, size = case.type, case.type.examples[0], (20, 36)
    if kind.start is not Reducer.start:
        pytest.skip('makes the tokens of the picture, so it comes first: see below')
    others = dict(AvgPool=dict(type='mmtoken.AvgPool', layer=0, grid=0.75), itself=case.config(args))
    if other == 'itself' and (kind.dynamic or kind.needs_keys):
        pytest.skip('a ragged batch is selected from once, and keys serve one merge a block')
    if info(case.host).ragged_stem:
        pytest.skip('what starts ragged takes neither pooling nor merging')
    inputs = images(4, size)
    host = case.build(args, others[other], size=size, out_indices=TAPS)
    outs, dense = run(host, inputs), run(case.dense(size=size, out_indices=TAPS), inputs)
    assert [out.shape for out in outs] == [out.shape for out in dense] and all(out.isfinite().all() for out in outs)
    assert sum(host.token_counts(inputs)) < sum(case.build(args, size=size).token_counts(inputs))
    # Two soft k-means on top of one another enlarge the rounding of a batched product to 3.2e-5 (seen in a dozen runs,
    # half of them fp64, since distances are fp32 there too); what batch mates could do is a thousand times that.
    assert close(outs, [torch.cat(maps) for maps in zip(*(run(host, inputs[b : b + 1]) for b in range(4)))], 1e-4)


@pytest.mark.parametrize('second', [name for name in COMPLETE if METHODS[name].start is Reducer.start])
@pytest.mark.parametrize('first', [name for name in COMPLETE if METHODS[name].start is not Reducer.start])
def test_every_method_goes_on_from_tokens_that_another_made(first, second):
    """Restored and batched exactly, at less cost than the first one alone; one line where that cannot be."""
    hosts = [{case.host for case in PAIRS if case.method == method} for method in (first, second)]
    host, inputs = min(hosts[0] & hosts[1]), images(3, (24, 40))
    configs = [dict(type=f'mmtoken.{method}', **METHODS[method].examples[-1]) for method in (first, second)]
    torch.manual_seed(0)
    both, alone = (HOSTS[host](reducer=reducer, out_indices=(3,)) for reducer in (configs, configs[:1]))
    both.served = alone.served = True
    alone.load_state_dict({key: value for key, value in both.state_dict().items() if 'reducers.1.' not in key})
    if METHODS[first].dynamic and not METHODS[second].takes_ragged and not issubclass(METHODS[second], GridReducer):
        with pytest.raises(ValueError, match=f'reducer {second} needs equally many tokens in each image'):
            run(both, inputs)
        return
    (out,) = run(both, inputs)
    assert out.shape[2:] == (6, 10) and not close([out], run(alone, inputs), 1e-3)
    assert both.token_counts(inputs)[-1] < alone.token_counts(inputs)[-1]
    assert close([out], [torch.cat([run(both, inputs[b : b + 1])[0] for b in range(3)])], 1e-4)


def test_a_reducer_that_restores_leaves_those_below_it_alone(host):
    """Pooling for blocks 0 to 3, clusters of that for blocks 1 and 2, merging in between."""
    if len(info(host).stages) > 1 or info(host).ragged_stem:
        pytest.skip('another stage restores too, and a ragged one is on no raster')
    reducer = [
        dict(type='mmtoken.AvgPool', layer=0, grid=0.5),
        dict(type='mmtoken.Expedit', layer=1, grid=0.5, restore_at=3),
        dict(type='mmtoken.ToMe', r=1, layers=[1, 2]),
    ]
    model = HOSTS[host](reducer=reducer, out_indices=TAPS)
    assert model.token_counts(images()) == [16, 3, 2, 16]
    assert all(out.shape[2:] == (SIDE, SIDE) for out in run(model, images()))


def test_stacks_that_cannot_work_say_why():
    build = HOSTS['TokenDINOv2']
    merge, cluster = dict(type='mmtoken.ToMe', r=4), dict(type='mmtoken.Expedit', layer=2, grid=0.5)
    with pytest.raises(ValueError, match=r'reducer\.layers: another reducer merged in block 0'):
        build(reducer=[merge, merge])(images())
    stay = dict(type='mmtoken.DToP', heads=METHODS['DToP']._head, exits=(0, 2), threshold=0.0, keep_per_class=1)
    cluster_later = build(reducer=[stay, cluster])
    cluster_later.served = True
    with pytest.raises(ValueError, match='another method reduces or restores tokens after the first exit'):
        cluster_later(images())


def test_pooling_undoes_what_left_its_tokens_on_no_raster():
    """It cannot pool merged tokens, so merging serves the blocks before it."""
    pool = dict(type='mmtoken.AvgPool', layer=2, grid=0.5)
    model = HOSTS['TokenDINOv2'](reducer=[dict(type='mmtoken.ToMe', r=8), pool], out_indices=TAPS)
    assert model.token_counts(images()) == [56, 48, 8, 4]
    state = model.forward_tokens(images())[1]
    assert [reduction.owner for reduction in state.trail] == [
        model.reducer.reducers[1],
        *[model.reducer.reducers[0]] * 2,
    ]
