"""The feature cache: a head's training sees the frozen backbone's features, and runs it once for each picture."""

import logging
from types import SimpleNamespace

import pytest
import torch

from mmtoken.engine import FeatureCacheHook
from mmtoken.testing import toy_hosts


def start(tmp_path, dtype='float32', late=False, frozen=True):
    reducer = dict(type='mmtoken.Expedit', layer=1, grid=0.5, restore='late') if late else None
    backbone = toy_hosts()['TokenDINOv2'](frozen=frozen, out_indices=(1, 3), reducer=reducer)
    backbone.train()
    model = torch.nn.Module()
    model.backbone = backbone
    settings = dict(type='mmtoken.TokenDINOv2', out_indices=(1, 3))
    runner = SimpleNamespace(
        model=model, cfg=SimpleNamespace(model=SimpleNamespace(backbone=settings)), logger=logging.getLogger('test')
    )
    hook = FeatureCacheHook(str(tmp_path), dtype)
    hook.before_train(runner)
    return hook, runner, backbone


def count_runs(hook, monkeypatch):
    runs, real = [], hook.run
    monkeypatch.setattr(hook, 'run', lambda inputs: runs.append(len(inputs)) or real(inputs))
    return runs


@pytest.mark.parametrize('dtype, tolerance', [('float32', 0), ('float16', 2e-3)])
def test_features_are_those_of_the_backbone(tmp_path, monkeypatch, dtype, tolerance):
    torch.manual_seed(0)
    images = torch.randn(3, 3, 32, 32)
    hook, _runner, backbone = start(tmp_path, dtype)
    expected = hook.run(images)
    runs = count_runs(hook, monkeypatch)
    first, again = backbone(images), backbone(images.flip(0))
    for want, one, two in zip(expected, first, again):
        torch.testing.assert_close(one, want, atol=tolerance * want.abs().max().item(), rtol=0)
        assert torch.equal(one, two.flip(0))
    assert runs == [3], 'every picture once, in whatever order it comes back'
    backbone(torch.cat([images[:1], torch.randn(1, 3, 32, 32)]))
    assert runs == [3, 1], 'of a batch only what is missing'


def test_validation_runs_the_backbone(tmp_path, monkeypatch):
    hook, runner, backbone = start(tmp_path)
    runs = count_runs(hook, monkeypatch)
    backbone.eval()
    for _ in range(2):
        backbone(torch.ones(1, 3, 32, 32))
    assert runs == [1, 1]
    hook.after_train(runner)
    assert 'forward' not in vars(backbone)


def test_other_weights_or_types_have_other_folders(tmp_path):
    torch.manual_seed(0)
    folder = start(tmp_path)[0].folder
    torch.manual_seed(0)
    assert start(tmp_path)[0].folder == folder
    torch.manual_seed(0)
    assert start(tmp_path, 'float16')[0].folder != folder
    torch.manual_seed(1)
    assert start(tmp_path)[0].folder != folder


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r'needs a frozen backbone, but backbone\.\S+ is trained; set backbone.frozen'):
        start(tmp_path, frozen=False)
    with pytest.raises(ValueError, match=r"set custom_hooks=\[\] with reducer.restore='late'"):
        start(tmp_path, late=True)
