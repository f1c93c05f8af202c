"""What every registered method owes every host, and every host its models.

A method is found in the registry and brings its own arguments (``identity_example``, ``examples``), a host its
``toy()``, so new ones get all of this without an edit here; ``test_newcomers.py`` proves it.
"""

from dataclasses import dataclass
from functools import cache
from math import prod

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import nn

from mmtoken.analysis.flops import count_macs
from mmtoken.core import GridReducer, Reducer, TokenHost, TokenState
from mmtoken.registry import MODELS, REDUCERS
from mmtoken.testing import DEPTH, PATCH, SIDE, toy_hosts

REDUCERS.import_from_location()
METHODS = dict(sorted(REDUCERS.module_dict.items()))
HOSTS = toy_hosts()
SQUARE = (PATCH * SIDE, PATCH * SIDE)
#: Not square; odd in patches; no multiple of the patch.
SIZES = [SQUARE, (24, 40), (20, 36), (30, 37)]
TAPS = tuple(range(DEPTH))


@dataclass(frozen=True)
class Case:
    """A method on a host; ``args`` are those of one of its examples."""

    method: str
    host: str
    args: tuple = ()

    @property
    def type(self):
        return METHODS[self.method]

    @property
    def id(self):
        return '-'.join([self.method, self.host, *(f'{k}={v}' for k, v in self.args if not isinstance(v, dict))])

    def config(self, args):
        return dict(type=f'mmtoken.{self.method}', **args)

    def dense(self, **kwargs):
        torch.manual_seed(0)
        return HOSTS[self.host](**kwargs)

    def build(self, args=None, *others, **kwargs):
        """The host with the method, and with the dense host's weights."""
        reducer = self.config(dict(self.args) if args is None else args)
        torch.manual_seed(0)  # heads that a method brings are the same for all of its arguments
        host = HOSTS[self.host](reducer=[*others, reducer] if others else reducer, **kwargs)
        missing, unexpected = host.load_state_dict(self.dense(**kwargs).state_dict(), strict=False)
        assert all(key.startswith('reducer.') for key in missing) and not unexpected
        host.served = True  # what a method leaves to the model's head is tested with models
        return host


def lacks(method):
    """What a method's class does not bring, by name."""
    kind = METHODS[method]
    owed = ('paper', 'identity_example', 'examples', 'closed_form')
    return [name for name in owed if getattr(kind, name) is getattr(Reducer, name)]


def has_toy(host):
    return MODELS.get(host).toy.__func__ is not TokenHost.toy.__func__


@cache
def info(host):
    return HOSTS[host]().info()


def refusal(method, host):
    """Why a host cannot take a method; empty if it can."""
    kind = METHODS[method]
    return kind(**kind.examples[0]).refuses(info(host))


#: What lacks something fails the tests that say so, and takes no part in the others.
COMPLETE = [method for method in METHODS if not lacks(method)]
TOYS = [host for host in HOSTS if has_toy(host)]
PAIRS = [Case(method, host) for method in COMPLETE for host in TOYS if not refusal(method, host)]


def pytest_generate_tests(metafunc):
    """``case``: method × host. ``static``: of static methods. ``rung``: × example. ``method``, ``host``: alone."""
    rungs = [Case(c.method, c.host, tuple(example.items())) for c in PAIRS for example in c.type.examples]
    static = [c for c in PAIRS if not c.type.dynamic]
    params = dict(method=COMPLETE, host=TOYS, case=PAIRS, static=static, rung=rungs)
    for name in [name for name in params if name in metafunc.fixturenames]:  # in one order for every worker
        ids = [p if isinstance(p, str) else p.id for p in params[name]]
        metafunc.parametrize(name, params[name], ids=ids)


def images(batch=2, size=SQUARE, seed=1):
    """Images of unlike contrast, so that batch mates would show."""
    pictures = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
    return pictures * torch.linspace(0.3, 2, batch).view(-1, 1, 1, 1)


@torch.no_grad()
def run(host, inputs, **kwargs):
    return list(host(inputs, **kwargs))


def train_once(host, inputs, weigh):
    """Backward pass of a training step: weighed outputs, and the method's own losses on random labels."""
    outs, state = host.forward_tokens(inputs)
    total = sum(weigh(out).sum() for out in outs)
    if host.reducer.trainable:
        labels = torch.randint(3, (len(inputs), 1, *inputs.shape[2:]), generator=torch.Generator().manual_seed(3))
        losses = host.reducer.losses(state, [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels])
        assert losses and all(isinstance(value, torch.Tensor) for value in losses.values())
        total = total + sum(value.mean() for name, value in losses.items() if 'loss' in name)
    total.backward()


def close(a, b, tolerance=1e-6):
    """Equal to ``tolerance`` of the largest value."""
    return all(
        x.shape == y.shape and (x - y).abs().max() <= tolerance * y.abs().max().clamp(min=1)
        for x, y in zip(a, b, strict=True)
    )


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------------- driving a method without a host
def bound(method, args):
    reducer = METHODS[method](**args)
    reducer.bind(info(next(c.host for c in PAIRS if c.method == method)))
    return reducer.eval()


def drive(reducer, state):
    """Yields after each call of the method; keys are the tokens themselves."""
    for i in range(DEPTH):
        for call in (reducer.before, reducer.between, reducer.after):
            state.keys = state.x.unflatten(-1, (2, -1)) if reducer.needs_keys else None
            call(state, i)
            yield


def tokens(grid=(7, 9), batch=2, num_prefix=0):
    return torch.randn(batch, num_prefix + grid[0] * grid[1], 32, generator=torch.Generator().manual_seed(2))


def prefix_rows(state):
    if state.lengths is None:
        return state.x[:, : state.num_prefix]
    return torch.stack([image[: state.num_prefix] for image in state.x.split(state.lengths.tolist())])


# ---------------------------------------------------------------------- what a host owes
@pytest.mark.parametrize('name', HOSTS)
def test_a_host_brings_what_its_tests_need(name):
    assert has_toy(name), f'{name} has no toy(), which makes a small one'


def test_a_host_says_what_it_is(host):
    model, told = HOSTS[host](), info(host)
    assert told.depth == len(model.blocks) and max(told.out_indices) < told.depth and model.patch_size > 0
    first = 0
    for stage in told.stages:
        assert stage.first == first and len(stage.windows) == stage.depth
        assert all(told.stage_of(i) is stage for i in range(first, first + stage.depth))
        first += stage.depth
    assert first == told.depth and told.stages[0].embed_dims == told.embed_dims


def test_a_host_has_the_names_of_the_class_it_derives_from(host):
    """So it loads the checkpoints of that."""
    kind = MODELS.get(host)
    stock = next(base for base in kind.__mro__ if issubclass(base, nn.Module) and not issubclass(base, TokenHost))
    if stock.forward is nn.Module.forward:
        pytest.skip('derives from no backbone')
    assert list(HOSTS[host]().state_dict()) == list(stock(**kind.toy(SQUARE)).state_dict())


def test_what_is_in_a_place_shows_in_that_place(host):
    """In every output: the tokens of a dense host lie where it says."""
    size, inputs = (20, 36), images(12, (20, 36))
    model = HOSTS[host](size=size, out_indices=TAPS)
    for y, x in ((0, 0), (0, 8), (4, 0), (1, 5), (3, 2)):
        changed = inputs.clone()
        changed[..., y * PATCH : (y + 1) * PATCH, x * PATCH : (x + 1) * PATCH] += 0.03
        for before, after in zip(run(model, inputs), run(model, changed)):
            change = (after - before).norm(dim=1).mean(0)
            down, across = (-(-side // PATCH // n) for side, n in zip(size, change.shape))
            assert change[y // down, x // across] >= 0.999 * change.max()


def test_a_batch_is_its_images_without_a_method(host):
    inputs = images(3, (20, 36))
    model = HOSTS[host](size=(20, 36), out_indices=TAPS)
    alone = [run(model, inputs[b : b + 1]) for b in range(3)]
    assert close(run(model, inputs), [torch.cat(outs) for outs in zip(*alone)], 3e-5)


def test_a_host_weighs_keys_by_the_sizes_of_tokens(host):
    if refusal('ToMe', host):
        pytest.skip('takes no method that merges')
    outs = []
    for proportional in (True, False):
        torch.manual_seed(0)
        outs.append(run(HOSTS[host](reducer=dict(type='mmtoken.ToMe', r=8, proportional=proportional)), images()))
    assert not close(*outs, 1e-3)


def test_a_host_refuses_when_it_is_built(host, method):
    """What it cannot run, in one line that names both."""
    if refusal(method, host):
        with pytest.raises(ValueError, match=rf'{host}: reducer {method} [^\n]+\.$'):
            HOSTS[host](reducer=dict(type=f'mmtoken.{method}', **METHODS[method].examples[0]))


class Ragged(Reducer):
    dynamic = True


def test_a_host_that_packs_nothing_refuses_dynamic_methods(host):
    if info(host).ragged and not info(host).ragged_stem:
        HOSTS[host](reducer=Ragged())
    else:
        with pytest.raises(ValueError, match=f'{host}: reducer Ragged'):
            HOSTS[host](reducer=Ragged())


# ---------------------------------------------------------------------- what a method owes
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
    assert equal(run(host, inputs), run(rung.build(out_indices=TAPS), inputs))


def test_prefix_tokens_stay_where_and_what_they_are(method):
    for args in (METHODS[method].identity_example, *METHODS[method].examples):
        x = tokens(num_prefix=3)
        state = TokenState(x.clone(), (7, 9), 3)
        for _ in drive(bound(method, args), state):
            assert torch.equal(prefix_rows(state), x[:, :3])
        assert state.dense().shape == (2, 63, 32)


def test_gradients_reach_the_image_and_every_parameter(rung):
    host, inputs = rung.build(out_indices=TAPS).train(), images().requires_grad_()
    # random weights: a plain sum over a LayerNorm's channels has no gradient
    train_once(host, inputs, lambda out: out * torch.randn_like(out))
    assert inputs.grad.isfinite().all() and inputs.grad.abs().amax((1, 2, 3)).gt(0).all()
    for name, parameter in host.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.dim() == 1 or parameter.grad.abs().max() > 0, name


def test_gradient_checkpointing_changes_nothing(rung):
    inputs, grads = images(), []
    for with_cp in (False, True):
        host = rung.build(out_indices=TAPS).train()
        host.with_cp = with_cp
        pixels = inputs.clone().requires_grad_()
        train_once(host, pixels, torch.square)
        grads.append([pixels.grad] + [p.grad for p in host.parameters()])
    assert close(*grads)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('autocast', [False, True])
def test_half_precision_is_finite(rung, dtype, autocast):
    host, inputs = rung.build(out_indices=TAPS), images()
    if not autocast:
        host, inputs = host.to(dtype), inputs.to(dtype)
    with torch.autocast('cpu', dtype=dtype, enabled=autocast):
        outs = run(host, inputs)
    assert all(out.isfinite().all() for out in outs)
    assert autocast or all(out.dtype == dtype for out in outs)


def test_state_dict_round_trip(rung):
    host, other = rung.build(), HOSTS[rung.host](reducer=rung.config(dict(rung.args)))
    other.served = True
    assert not equal(run(host, images()), run(other, images()))
    other.load_state_dict(host.state_dict())
    assert equal(run(host, images()), run(other, images()))
    assert [k for k in host.state_dict() if not k.startswith('reducer.')] == list(rung.dense().state_dict())


def test_full_graph_compilation(static):
    torch.compiler.reset()
    host = static.build(static.type.examples[-1])
    compiled = torch.compile(host, fullgraph=True, backend='eager')
    for seed in (1, 2):
        assert close(run(compiled, images(seed=seed)), run(host, images(seed=seed)))


@pytest.mark.gpu
def test_generated_code(method):
    """The default compiler; on a CPU it would take minutes of g++ for some methods."""
    if METHODS[method].dynamic:
        pytest.skip('only static methods promise it')
    reducer = bound(method, METHODS[method].examples[-1]).cuda()

    @torch.no_grad()
    def reduce(x):
        state = TokenState(x, (7, 9), 1)
        for _ in drive(reducer, state):
            pass
        return state.x, state.dense()

    torch.compiler.reset()
    x = tokens(num_prefix=1).cuda()
    assert close(torch.compile(reduce, fullgraph=True)(x), reduce(x), 1e-4)


def test_export(static):
    host = static.build(static.type.examples[-1])
    exported = torch.export.export(host, (images(seed=1),)).module()
    for seed in (1, 2):
        assert close(run(exported, images(seed=seed)), run(host, images(seed=seed)))


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
        before = [everything[i] if i in whole else counts[i - 1] for i in range(DEPTH)]
        assert all(0 < after <= few for few, after in zip(before, counts))
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


def test_a_host_takes_a_padding_mask(case):
    padding = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    padding[0, 5:], padding[1, :, 7:] = True, True
    inputs = images()
    dense = run(case.dense(), inputs, padding=padding)
    assert equal(run(case.build(case.type.identity_example), inputs, padding=padding), dense)
    outs = run(case.build(case.type.examples[-1]), inputs, padding=padding)
    assert all(out.isfinite().all() for out in outs)
    assert not equal(outs, run(case.build(case.type.examples[-1]), inputs))


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


def test_what_only_training_needs_can_go(rung):
    host, inputs = rung.build(out_indices=TAPS), images()
    before, names = run(host, inputs), set(host.state_dict())
    host.switch_to_deploy()
    assert close(run(host, inputs), before, 1e-5)
    assert set(host.state_dict()) <= names


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
