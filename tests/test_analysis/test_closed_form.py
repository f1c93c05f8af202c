"""MACs of every host with every method against a formula on paper, and against torch's own counter."""

from math import ceil, prod

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmtoken.analysis import model_parts, segmentor_macs
from mmtoken.registry import MODELS, REDUCERS
from mmtoken.testing import DEPTH, PATCH, toy_hosts

REDUCERS.import_from_location()
METHODS = {name: kind for name, kind in sorted(REDUCERS.module_dict.items()) if kind.__module__.startswith('mmtoken.')}
HOSTS = toy_hosts()
DIM, HEADS, GRID = 32, 2, (24, 20)
N = prod(GRID)


# Each gives the patch tokens that enter the attention and the MLP of each block, and the method's own MACs before the
# blocks are left and after; one image, one output after the last block. `relative` hosts ask for centres.
def avg_pool(layer, grid, relative, **_):
    m = prod(round(side * grid) for side in GRID)
    tokens = [N if i < layer else m for i in range(DEPTH)]
    return tokens, tokens, 0, 0  # averages and interpolation are no multiply-adds


def expedit(layer, grid, relative, proportional=False, window=5, iterations=5, **_):
    cells = [round(side * grid) for side in GRID]
    m, slots = prod(cells), prod(ceil(side / cell) for side, cell in zip(GRID, cells))
    tokens = [N if i < layer else m for i in range(DEPTH)]
    clustering = iterations * 2 * m * slots * window**2 * DIM  # distances to a window of centres, and their new sums
    reduce = clustering + N * m * DIM  # each token to all centres
    reduce += proportional * N * m  # how many patches each centre stands for
    return tokens, tokens, reduce, N * m * DIM


def tome(relative, r=None, keep=None, **_):
    n, attention, mlp, reduce = N, [], [], 0
    for i in range(DEPTH):
        attention.append(n)
        merged = round(n * (1 - keep ** (1 / DEPTH))) if r is None else r
        reduce += ceil(n / 2) * (n // 2) * (DIM // HEADS)  # every even token with every odd one
        reduce += (n - merged) * merged * (DIM + 1)  # what is merged is added by a matrix, and its sizes
        reduce += relative * (i < DEPTH - 1) * (n - merged) * merged * 2  # its centres, if a block comes that asks
        n -= merged
        mlp.append(n)
    return attention, mlp, reduce, 0


CLOSED_FORMS = dict(AvgPool=avg_pool, Expedit=expedit, ToMe=tome)


# Of dynamic methods by what was recorded about a picture: the exit at which each token left (their number: none).
def early_exit(left, exits, threshold, heads, **_):
    last = [*exits, DEPTH]
    tokens = [sum(last[m] >= i for m in left) for i in range(DEPTH)]
    asked = [sum(m >= exit for m in left) for exit in range(len(exits))] if threshold != 1 else []  # those not gone yet
    return tokens, sum(asked) * DIM * heads['num_classes'], 0  # saved features and predictions are put back by index


RECORDED = dict(DToP=early_exit, DoViT=early_exit)


def test_every_method_has_a_closed_form():
    assert {name for name, kind in METHODS.items() if not kind.dynamic} == set(CLOSED_FORMS)
    assert {name for name, kind in METHODS.items() if kind.dynamic} == set(RECORDED)


def of_blocks(attention, mlp, prefix):
    blocks = sum(4 * (n + prefix) * DIM**2 + 2 * (n + prefix) ** 2 * DIM for n in attention)
    return blocks + sum(8 * (n + prefix) * DIM**2 for n in mlp)


@pytest.mark.parametrize('host', list(HOSTS))
@pytest.mark.parametrize(
    'method, args', [(None, {})] + [(m, a) for m in CLOSED_FORMS for a in METHODS[m].examples], ids=str
)
def test_host_and_method(host, method, args):
    size = tuple(side * PATCH for side in GRID)
    reducer = dict(type=f'mmtoken.{method}', **args) if method else None
    model = HOSTS[host](size=size, reducer=reducer)
    relative = model.position == 'relative'
    attention, mlp, reduce, restore = (
        CLOSED_FORMS[method](relative=relative, **args) if method else ([N] * DEPTH, [N] * DEPTH, 0, 0)
    )

    blocks, stem = of_blocks(attention, mlp, model.num_prefix), N * 3 * PATCH**2 * DIM
    expected = dict(stem=stem, blocks=blocks, reduce=reduce, restore=restore, neck=0, heads=0, other=0)

    report = segmentor_macs(model.to('meta'), size)
    assert model_parts(report, model) == expected  # to the last one, where half a percent would do
    assert report.total == sum(expected.values()) == sum(report.by_operator.values())
    assert report.tokens == mlp and not report.missed


@pytest.mark.parametrize('host', [name for name, host in HOSTS.items() if host().position == 'absolute'])
@pytest.mark.parametrize(
    'method, args', [(m, a) for m in RECORDED for a in (METHODS[m].identity_example, *METHODS[m].examples)], ids=str
)
def test_segmentor_with_a_dynamic_method(host, method, args):
    size, classes = tuple(side * PATCH for side in GRID), args['heads']['num_classes']
    backbone = dict(type=HOSTS[host], size=size, reducer=dict(type=f'mmtoken.{method}', **args))
    head = dict(args['heads'], in_channels=DIM, num_convs=1, kernel_size=3, channels=16)
    model = MODELS.build(
        dict(
            type='mmtoken.TokenEncoderDecoder',
            backbone=backbone,
            decode_head=head,
            test_cfg=dict(mode='whole'),
            data_preprocessor=dict(type='mmseg.SegDataPreProcessor'),
        )
    )
    model.eval()
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        state = model.backbone.forward_tokens(image)[1]
    left = state.aux[model.backbone.reducer].left.tolist()
    assert (min(left) < len(args['exits'])) == (args != METHODS[method].identity_example) and len(left) == N

    tokens, reduce, restore = RECORDED[method](left, **args)
    expected = dict(
        stem=N * 3 * PATCH**2 * DIM,
        blocks=of_blocks(tokens, tokens, model.backbone.num_prefix),
        reduce=reduce,
        restore=restore,
        neck=0,
        heads=N * 16 * (DIM * 9 + classes),
        other=0,
    )
    report = segmentor_macs(model, image)
    assert model_parts(report, model) == expected
    assert report.total == sum(expected.values()) and report.tokens == tokens and not report.missed


@pytest.mark.parametrize('host', list(HOSTS))
@pytest.mark.parametrize('method', [None, *METHODS])
def test_torch_counts_the_same_where_it_can(host, method):
    """It knows no fused attention on the CPU, so products are given to it one by one."""
    size = (PATCH * 9, PATCH * 7)
    dense = HOSTS[host](size=size)
    if method and METHODS[method].dynamic and dense.position == 'relative':
        pytest.skip('dynamic methods need absolute positions')
    model = (
        dense
        if method is None
        else HOSTS[host](size=size, reducer=dict(type=f'mmtoken.{method}', **METHODS[method].examples[-1]))
    )
    model.served = True  # as a segmentor says that completes the logits of pruned tokens
    images = torch.randn(2, 3, *size)
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        with FlopCounterMode(display=False) as theirs:
            model(images)
        report = segmentor_macs(model, images)
    assert 2 * report.total == theirs.get_total_flops()  # it counts the add for itself
    assert report.total == segmentor_macs(model, images).total
