"""Frozen stages and learning rates by depth, for every host."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor
from torch import nn

from mmtoken.core import Reducer
from mmtoken.testing import DEPTH, toy_hosts

#: These classes freeze by themselves and have depths of their own; see test_pretrain.py and test_swin.py.
HOSTS = {name: make for name, make in toy_hosts().items() if name not in ('TokenPretrainViT', 'TokenSwin')}
STEM = ('cls_token', 'pos_embed', 'register_tokens', 'reg_token', 'patch_embed', 'norm_pre')
hosts = pytest.mark.parametrize('name', HOSTS)


class Gate(Reducer):
    trainable = True

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(32, 1)
        self.drop = nn.Dropout(0.5)


def depth_of(name):
    """0 before the blocks, i + 1 in block i, DEPTH + 1 after them."""
    first, _, rest = name.partition('.')
    if first in STEM:
        return 0
    return int(rest.split('.')[0]) + 1 if first in ('blocks', 'layers') else DEPTH + 1


@hosts
@pytest.mark.parametrize('stages', [-1, 0, 1, 3, DEPTH])
def test_frozen_stages(name, stages):
    host = HOSTS[name](frozen_stages=stages, drop_path_rate=0.5, reducer=Gate())
    for key, parameter in host.named_parameters():
        mine = key.startswith('reducer.')
        frozen = not mine and stages >= 0 and (stages == DEPTH or depth_of(key) <= stages)
        assert parameter.requires_grad is not frozen, key
    for mode in (True, False, True):
        assert host.train(mode) is host
        assert host.training is mode
        assert host.reducer.drop.training is mode
        for i, block in enumerate(host.blocks):
            assert all(m.training is (mode and i >= stages) for m in block.modules())
        assert all(m.training is (mode and stages < 0) for m in host.patch_embed.modules())
    host.served = True
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    host.train()(x)[0].sum().backward()
    for key, parameter in host.named_parameters():
        if not key.startswith('reducer.'):
            assert (parameter.grad is not None) is parameter.requires_grad, key


@hosts
def test_frozen_blocks_drop_nothing(name):
    x = torch.randn(8, 3, 32, 32)
    for stages, same in ((DEPTH, True), (2, False)):
        host = HOSTS[name](frozen_stages=stages, drop_path_rate=0.9).train()
        assert torch.equal(host(x)[0], host(x)[0]) is same
        eval_mode = host.eval()(x)[0]
        assert torch.equal(host.train()(x)[0], eval_mode) is same


@hosts
@pytest.mark.parametrize('stages', [-2, DEPTH + 1, True, 1.0, None, '1'])
def test_other_stages(name, stages):
    with pytest.raises(ValueError, match=rf'backbone.frozen_stages=.* must be an integer in \[-1, {DEPTH}\]'):
        HOSTS[name](frozen_stages=stages)


# --------------------------------------------------------------------------------------------------------- layer decay
class Model(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.decode_head = nn.Conv2d(32, 3, 1)


def groups(backbone, **paramwise):
    config = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        constructor='mmtoken.LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(dict(layer_decay_rate=0.5), **paramwise),
    )
    model = Model(backbone)
    found = {g['param_name']: g for g in build_optim_wrapper(model, config).optimizer.param_groups}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert found[name]['params'] == [parameter]
    return found


@hosts
def test_learning_rates_fall_towards_the_stem(name):
    found = groups(HOSTS[name](reducer=Gate()))
    rates = {key: group['lr'] for key, group in found.items()}
    assert len({*rates.values()}) == DEPTH + 2
    for key, rate in rates.items():
        depth = depth_of(key.removeprefix('backbone.')) if key.startswith('backbone.') else DEPTH + 1
        assert rate == pytest.approx(1e-3 * 0.5 ** (DEPTH + 1 - depth)), key
    assert rates['backbone.reducer.score.weight'] == rates['decode_head.weight'] == 1e-3
    assert all(group['weight_decay'] == 0.05 for group in found.values())


@pytest.mark.parametrize('name', ['TokenBEiT', 'TokenMAE'])
def test_rates_are_those_of_mmsegs_constructor(name):
    backbone = HOSTS[name]()
    constructor = LearningRateDecayOptimizerConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05)),
        dict(num_layers=DEPTH, decay_rate=0.5, decay_type='layer_wise'),
    )
    expected = {
        key: group['lr']
        for group in constructor(Model(backbone)).optimizer.param_groups
        for key in group['param_names']
    }
    assert {key: group['lr'] for key, group in groups(backbone).items()} == pytest.approx(expected)


@hosts
def test_other_options_and_frozen_stages_go_with_it(name):
    found = groups(
        HOSTS[name](frozen_stages=2),
        norm_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'decode_head': dict(lr_mult=10.0)},
    )
    assert all(depth_of(key.removeprefix('backbone.')) > 2 for key in found if key.startswith('backbone.'))
    assert found['decode_head.weight']['lr'] == pytest.approx(1e-2)
    norms = [group for key, group in found.items() if '.ln1.' in key or '.norm1.' in key]
    assert norms
    assert all(group['weight_decay'] == 0 for group in norms)


@pytest.mark.parametrize('rate', [0, 1.5, '0.9', None, True])
def test_bad_rates_and_backbones(rate):
    with pytest.raises(ValueError, match=r'paramwise_cfg.layer_decay_rate=.* must be a number in \(0, 1\]'):
        groups(HOSTS['TokenDINOv2'](), layer_decay_rate=rate)
    with pytest.raises(ValueError, match=r'get_layer_depth.*set model.backbone.type'):
        groups(nn.Linear(3, 3))
