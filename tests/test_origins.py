"""Where the first weights of a training come from: what is random is named, and never frozen or handed on."""

import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmtoken.engine import GuardHook
from mmtoken.engine.checkpoints import read_weights
from mmtoken.engine.errors import UserError
from mmtoken.engine.origins import Origins
from mmtoken.testing import toy_hosts

SAT = dict(type='mmtoken.SAT', blocks=1)
LEARNED = (
    dict(type='mmtoken.Cropr', keep=0.5, num_classes=3, queries=2),
    dict(type='mmtoken.SViT', skip=1),
    dict(type='mmtoken.MixedScale', selector='learned'),
)


def build(reducer=None, **options):
    model = nn.Module()
    model.backbone = toy_hosts()['TokenDINOv2'](reducer=reducer, **options)
    model.decode_head = nn.Linear(32, 3)
    return model


@pytest.mark.parametrize('load', [nn.Module.load_state_dict, load_state_dict], ids=['torch', 'mmengine'])
def test_what_a_checkpoint_lacks_is_random(load):
    dense, model = build().state_dict(), build(SAT)
    origins = Origins(model)
    assert len(origins.random) == len(list(model.named_parameters()))
    load(model, dense, strict=False)
    assert origins.random == [f'backbone.reducer.head.{i}.{kind}' for i in (0, 2, 4, 6) for kind in ('weight', 'bias')]
    assert origins.describe() == f'backbone.reducer (8 of {len(list(model.backbone.reducer.parameters()))})'
    load(model, {'backbone.reducer.head.6.weight': torch.zeros(2, 32)}, strict=False)
    assert len(origins.random) == 7


def test_a_weight_of_another_shape_is_not_loaded():
    model = build(LEARNED[0])
    origins = Origins(model)
    load_state_dict(model, build({**LEARNED[0], 'queries': 3}).state_dict(), strict=False)
    assert origins.random and all('reducer' in name for name in origins.random)


@pytest.mark.parametrize('reducer', [{**SAT, 'frozen': True}, *LEARNED], ids=lambda reducer: reducer['type'])
def test_what_is_frozen_comes_out_of_a_checkpoint(reducer):
    trained, model = build(reducer), build(reducer, frozen=True)
    origins = Origins(model)
    with pytest.raises(UserError, match=r'model.backbone.cls_token and \d+ more: frozen, and in no checkpoint'):
        origins.check_frozen()
    model.load_state_dict(build().state_dict(), strict=False)
    model.backbone.reducer.requires_grad_(True)
    origins.check_frozen()  # what learns may begin at random
    model.backbone.reducer.requires_grad_(False)
    with pytest.raises(UserError, match=r'model.backbone.reducer.*set load_from, or backbone.init_cfg with its prefix'):
        origins.check_frozen()
    model.load_state_dict(trained.state_dict())
    origins.check_frozen()


@pytest.fixture
def runner(monkeypatch):
    """Makes what the hook asks a runner for."""
    for name, value in dict(train_loop=SimpleNamespace(iter=0, max_iters=1), val_loop=None, iter=0).items():
        monkeypatch.setattr(Runner, name, value)
    monkeypatch.setattr(Runner, 'logger', logging.getLogger('test'), raising=False)

    def make(model, resume):
        made = object.__new__(Runner)
        made.model, made._load_from, made._resume = model, 'start.pth', resume
        return made

    return make


def test_what_never_learned_is_not_handed_on(tmp_path, runner):
    """A first step that trains the reducer alone, then one that trains the head, then the first step resumed."""

    def saved(model, checkpoint=None, resume=False):
        hook, one = GuardHook(), runner(model, resume)
        hook.before_run(one)
        model.backbone.load_state_dict(backbone, strict=False)
        if checkpoint is not None:
            hook.after_load_checkpoint(one, checkpoint)
            model.load_state_dict(checkpoint['state_dict'], strict=False)
        hook.before_train(one)
        made = dict(meta={}, state_dict=model.state_dict())
        hook.before_save_checkpoint(one, made)
        return made

    backbone = toy_hosts()['TokenDINOv2']().state_dict()
    first = build(SAT)
    first.only_reducer = True
    scale_head = saved(first)
    assert scale_head['meta']['untrained'] == ['decode_head.weight', 'decode_head.bias']
    torch.save(scale_head, tmp_path / 'first.pth')
    assert not any('decode_head' in name for name in read_weights(str(tmp_path / 'first.pth')))

    whole = dict(scale_head, state_dict=dict(scale_head['state_dict']))
    resumed = build(SAT)
    resumed.only_reducer = True
    again = saved(resumed, whole, resume=True)
    assert again['meta'] == scale_head['meta'] and torch.equal(resumed.decode_head.weight, first.decode_head.weight)

    second = build({**SAT, 'frozen': True})
    start = second.decode_head.weight.clone()
    assert 'untrained' not in saved(second, scale_head)['meta']
    assert torch.equal(second.decode_head.weight, start) and not torch.equal(start, first.decode_head.weight)
    assert torch.equal(second.backbone.reducer.head[0].weight, first.backbone.reducer.head[0].weight)

    started = build(SAT)  # beside a head that another run has trained
    started.only_reducer = True
    assert 'untrained' not in saved(started, dict(state_dict=build().state_dict()))['meta']
