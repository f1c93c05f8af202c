"""The examples do what they say."""

import importlib.util
from pathlib import Path

import pytest
import torch

import mmtoken

FILE = Path(mmtoken.__file__).parents[1] / 'examples/timm_vit.py'

pytestmark = pytest.mark.skipif(not FILE.exists(), reason='needs a checkout')
pytest.importorskip('timm')

#: timm's ways from tokens to logits: class token, mean of the patches, distillation token and registers, attention.
MODELS = dict(
    token=dict(),
    avg=dict(global_pool='avg', class_token=False),
    registers=dict(reg_tokens=3, dynamic_img_size=False, init_values=0.1),
    map=dict(global_pool='map', class_token=False),
)
METHODS = [dict(type='ToMe', r=8), dict(type='Expedit', layer=2, grid=0.5), dict(type='AvgPool', layer=2, grid=0.5)]


@pytest.fixture(scope='module')
def example():
    spec = importlib.util.spec_from_file_location('timm_vit', FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(**options):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    return VisionTransformer(**{**dict(img_size=32, patch_size=4, embed_dim=24, depth=4, num_heads=2), **options})


@pytest.mark.parametrize('kind', MODELS)
def test_without_a_reducer_the_logits_are_those_of_timm(example, kind):
    vit, images = build(**MODELS[kind]).eval(), torch.randn(2, 3, 32, 32)
    (logits,) = example.FastViT(vit).eval()(images)
    assert logits.shape == (2, 1000) and torch.allclose(logits, vit(images), atol=1e-5)


@pytest.mark.parametrize('kind', MODELS)
@pytest.mark.parametrize('method', METHODS, ids=lambda method: method['type'])
def test_methods_classify_on_fewer_tokens(example, kind, method):
    vit, images = build(**MODELS[kind]).eval(), torch.randn(2, 3, 32, 32)
    fast = example.FastViT(vit, method).eval()
    assert fast.token_counts(images)[-1] < 64
    (logits,) = fast(images)
    assert logits.shape == (2, 1000) and not torch.allclose(logits, vit(images), atol=1e-5)
    for one, alone in zip(logits, images):
        assert torch.allclose(one, fast(alone[None])[0][0], atol=1e-5)


def test_it_trains(example):
    vit = build()
    example.FastViT(vit, METHODS[0]).train()(torch.randn(2, 3, 32, 32))[0].sum().backward()
    assert vit.patch_embed.proj.weight.grad.abs().sum() > 0 and vit.head.weight.grad.abs().sum() > 0


def test_it_says_what_it_saves(example, capsys):
    example.main(['--model', 'test_vit'])
    lines = capsys.readouterr().out.splitlines()
    tokens = [int(line.split(': ')[1].split()[0]) for line in lines]
    assert [line.split(':')[0] for line in lines] == ['no reducer', 'ToMe', 'Expedit']
    assert tokens[0] == 100 > max(tokens[1:])
