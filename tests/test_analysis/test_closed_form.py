"""MACs of every host with every method against a formula on paper, and against torch's own counter."""

from math import prod

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mmtoken.analysis import model_parts, segmentor_macs
from mmtoken.core import Cost
from mmtoken.registry import MODELS, REDUCERS
from mmtoken.testing import DEPTH, PATCH, toy_hosts

REDUCERS.import_from_location()
METHODS = dict(sorted(REDUCERS.module_dict.items()))
STATIC = [(name, args) for name, kind in METHODS.items() if not kind.dynamic for args in kind.examples]
DYNAMIC = [
    (name, args) for name, kind in METHODS.items() if kind.dynamic for args in (kind.identity_example, *kind.examples)
]
HOSTS = toy_hosts()
INFOS = {name: host().info() for name, host in HOSTS.items()}
#: Hosts of one stage and global attention; the others have a formula of their own.
PLAIN = [name for name, info in INFOS.items() if info.is_plain]


def pairs(hosts, methods):
    """Hosts with the methods that do not refuse them."""
    for host in hosts:
        for method, args in methods:
            if not (method and METHODS[method](**args).refuses(INFOS[host])):
                yield pytest.param(host, method, args, id=f'{host}-{method}-{args}')


DIM, GRID = 32, (24, 20)
N = prod(GRID)


def of_blocks(attention, mlp, prefix):
    blocks = sum(4 * (n + prefix) * DIM**2 + 2 * (n + prefix) ** 2 * DIM for n in sequences(attention))
    return blocks + sum(8 * (n + prefix) * DIM**2 for n in sequences(mlp))


def sequences(blocks):
    """Lengths of all sequences that the blocks run on."""
    return [n for block in blocks for n in (block if isinstance(block, tuple) else (block,))]


def tokens_of(blocks):
    """Patch tokens of each block, over all its sequences."""
    return [sum(block) if isinstance(block, tuple) else block for block in blocks]


def parts_of(cost, prefix, **more):
    """MACs by part of a model whose method costs that much."""
    parts = dict(stem=N * 3 * PATCH**2 * DIM + cost.stem, blocks=of_blocks(cost.attention, cost.mlp, prefix))
    return dict(parts, reduce=cost.reduce, restore=cost.restore, **{**dict(neck=0, heads=0, other=0), **more})


@pytest.mark.parametrize('host, method, args', pairs(PLAIN, [(None, {}), *STATIC]))
def test_host_and_method(host, method, args):
    size = tuple(side * PATCH for side in GRID)
    reducer = dict(type=f'mmtoken.{method}', **args) if method else None
    model = HOSTS[host](size=size, reducer=reducer)
    cost = model.reducer.closed_form(model.info(), GRID) if method else Cost([N] * DEPTH, [N] * DEPTH)
    expected = parts_of(cost, model.num_prefix)

    report = segmentor_macs(model.to('meta'), size)
    assert model_parts(report, model) == expected  # to the last one, where half a percent would do
    assert report.total == sum(expected.values()) == sum(report.by_operator.values())
    assert report.tokens == tokens_of(cost.mlp) and not report.missed


@pytest.mark.parametrize('host, method, args', pairs(PLAIN, DYNAMIC))
def test_segmentor_with_a_dynamic_method(host, method, args):
    size, classes = tuple(side * PATCH for side in GRID), 3
    backbone = dict(type=HOSTS[host], size=size, reducer=dict(type=f'mmtoken.{method}', **args))
    head = dict(type='mmseg.FCNHead', in_channels=DIM, num_convs=1, kernel_size=3, channels=16, concat_input=False)
    model = MODELS.build(
        dict(
            type='mmtoken.TokenEncoderDecoder',
            backbone=backbone,
            decode_head=dict(head, num_classes=classes, align_corners=False),
            test_cfg=dict(mode='whole'),
            data_preprocessor=dict(type='mmseg.SegDataPreProcessor'),
        )
    )
    model.eval()
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        state = model.backbone.forward_tokens(image)[1]
    cost = model.backbone.reducer.closed_form(model.backbone.info(), GRID, state)
    assert (min(tokens_of(cost.mlp)) < N) == (args != METHODS[method].identity_example)

    expected = parts_of(cost, model.backbone.num_prefix, heads=N * 16 * (DIM * 9 + classes))
    report = segmentor_macs(model, image)
    assert model_parts(report, model) == expected
    assert report.total == sum(expected.values()) and report.tokens == tokens_of(cost.mlp) and not report.missed


LAST = [(None, {}), *((name, kind.examples[-1]) for name, kind in METHODS.items())]


@pytest.mark.parametrize('host, method, args', pairs(HOSTS, LAST))
def test_torch_counts_the_same_where_it_can(host, method, args):
    """It knows no fused attention on the CPU, so products are given to it one by one."""
    size = (PATCH * 9, PATCH * 7)
    model = HOSTS[host](size=size, reducer=dict(type=f'mmtoken.{method}', **args) if method else None)
    model.served = True  # as a segmentor says that completes the logits of pruned tokens
    images = torch.randn(2, 3, *size)
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        with FlopCounterMode(display=False) as theirs:
            model(images)
        report = segmentor_macs(model, images)
    assert 2 * report.total == theirs.get_total_flops()  # it counts the add for itself
    assert report.total == segmentor_macs(model, images).total
