"""Nonsense in place of an argument is refused in one line that names it, or is taken and works: nothing else."""

import inspect
import math
import re

import pytest
import torch

from mmtoken.core import build_reducer
from mmtoken.hosts.dinov2 import TokenDINOv2
from mmtoken.registry import REDUCERS
from mmtoken.testing import DEPTH, PATCH, SIDE, toy_hosts

REDUCERS.import_from_location()
METHODS = dict(sorted(REDUCERS.module_dict.items()))
HOST = toy_hosts()['TokenDINOv2']
HUGE = 10**9
NONSENSE = ['False', '', math.nan, math.inf, [], [None], {}, (3,), -1, 0, 1, 2.5, HUGE, True, None, object]
ARGUMENTS = [(name, key) for name, method in METHODS.items() for key in inspect.signature(method).parameters]
SWITCHES = [
    (name, key)
    for name, kind in [*METHODS.items(), ('TokenDINOv2', TokenDINOv2)]
    for key, parameter in inspect.signature(kind).parameters.items()
    if isinstance(parameter.default, bool)
]


def build(name, key, value):
    """A toy backbone with one argument of it, or of its reducer, replaced."""
    if name == 'TokenDINOv2':
        return HOST(**{key: value})
    args = dict(METHODS[name].examples[0])
    if name == 'ToMe' and key == 'keep':
        args = {}
    return HOST(reducer=dict(type=f'mmtoken.{name}', **{**args, key: value}))


@pytest.mark.parametrize(
    ('name', 'key'), [*ARGUMENTS, *(('TokenDINOv2', k) for k in inspect.signature(TokenDINOv2).parameters)]
)
def test_nonsense_is_refused_by_name_or_works(name, key):
    taken = 0
    for value in NONSENSE:
        try:
            host = build(name, key, value)
        except (ValueError, TypeError) as error:
            text = str(error)
            assert key in text, f'{key}={value!r}: {text}'
            assert '\n' not in text, text
            continue
        taken += 1
        host.served = True
        channels = value if key == 'in_channels' else 3
        with torch.no_grad():
            outs = host.eval()(torch.randn(1, channels, 2 * PATCH, 3 * PATCH))
        assert all(torch.is_tensor(out) or len(out) == 2 for out in outs), f'{key}={value!r}'
    assert taken < len(NONSENSE), 'it takes anything'


@pytest.mark.parametrize(('name', 'key'), SWITCHES)
@pytest.mark.parametrize('value', ['False', 'True', 0, 1, math.nan, [], None], ids=repr)
def test_switches_take_true_and_false_alone(name, key, value):
    if value is None and name == 'TokenDINOv2' and key == 'interpolate_antialias':
        pytest.skip('None is its default')
    with pytest.raises(ValueError, match=rf'{key}={re.escape(repr(value))} is no switch; set it to True or False'):
        build(name, key, value)


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (dict(arch='smal'), "backbone.arch='smal' is unknown.*did you mean 'small'"),
        (dict(arch=dict(embed_dims=32, num_layers=4)), r'backbone.arch.num_heads=None must be an integer in \[1, '),
        (dict(arch=dict(embed_dims=32, num_layers=4, num_heads=5)), 'backbone.arch.num_heads=5 must divide.*=32'),
        (dict(arch=dict(embed_dims=32, num_layers=0, num_heads=2)), 'backbone.arch.num_layers=0'),
        (dict(arch=dict(embed_dims=32, num_layers=1, num_heads=2, ffn='x')), "backbone.arch.ffn='x'.*'mlp', 'swiglu'"),
        (
            dict(arch=dict(embed_dim=32, num_layers=1, num_heads=2)),
            "backbone.arch: entry='embed_dim' is unknown.*did you mean 'embed_dims'",
        ),
        (dict(out_indices=[]), r'backbone.out_indices=\[\] must be a block'),
        (dict(out_indices=[1, 1]), r'backbone.out_indices=\[1, 1\] must rise'),
        (dict(out_indices=[3, 1]), r'backbone.out_indices=\[3, 1\] must rise'),
        (dict(out_indices=[-1, DEPTH - 1]), 'must rise'),
        (dict(out_indices=True), 'backbone.out_indices=True must be a block'),
        (dict(drop_path_rate=2.5), r'backbone.drop_path_rate=2.5 must be a number in \[0, 1\)'),
        (dict(drop_path_rate=1), r'backbone.drop_path_rate=1 must be a number in \[0, 1\)'),
        (dict(layer_scale=0), 'backbone.layer_scale=0 must be a number above 0'),
        (dict(layer_scale=None), 'backbone.layer_scale=None must be a number above 0'),
        (dict(mlp_ratio=0), r'backbone.mlp_ratio=0 must be a number in \(0, 64\]'),
        (dict(num_registers=-1), r'backbone.num_registers=-1 must be an integer in \[0, 1024\]'),
        (dict(patch_size=0), r'backbone.patch_size=0 must be an integer in \[1, 1024\]'),
        (dict(img_size=PATCH - 1), rf'backbone.img_size={PATCH - 1} must be an integer in \[{PATCH}, 8192\]'),
        (dict(img_size=(32, 32, 32)), r'backbone.img_size=\(32, 32, 32\).*\(height, width\)'),
        (dict(frozen_stages=DEPTH + 1), rf'backbone.frozen_stages={DEPTH + 1} must be an integer in \[-1, {DEPTH}\]'),
        (dict(reducer=[None]), r'reducer=\[…\] holds None'),
        (dict(reducer='mmtoken.ToMe'), "reducer='mmtoken.ToMe' must be a dict"),
        (dict(init_cfg='dinov2.pth'), "backbone.init_cfg='dinov2.pth' must be a dict"),
        (dict(init_cfg=dict(type='Pretrained')), 'backbone.init_cfg.checkpoint=None must be the name of a file'),
    ],
    ids=str,
)
def test_arguments_of_dinov2(args, message):
    with pytest.raises(ValueError, match=message) as error:
        HOST(**args)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('size', [(PATCH * SIDE, PATCH * SIDE), [PATCH * SIDE] * 2, (PATCH * SIDE,), PATCH * SIDE])
def test_image_sizes_as_mmsegs_vit_takes_them(size):
    host = HOST(img_size=size)
    assert host.pos_embed.shape[1] == 1 + SIDE * SIDE
    assert host(torch.randn(1, 3, PATCH * SIDE, PATCH * SIDE))[0].shape[2:] == (SIDE, SIDE)


def test_an_integer_layer_scale_is_a_number():
    assert TokenDINOv2(**{**TokenDINOv2.toy((32, 32)), 'layer_scale': 1}).blocks[0].ls1.gamma.dtype is torch.float32


@pytest.mark.parametrize('heads', [[], {}, [{}], 'head', [None], dict(num_classes=3), True])
@pytest.mark.parametrize('method', [name for name, kind in METHODS.items() if kind.auxiliary == 'heads'])
def test_configs_of_exit_heads(method, heads):
    with pytest.raises(ValueError, match='heads=.* must be '):
        build_reducer(dict(type=f'mmtoken.{method}', heads=heads))
