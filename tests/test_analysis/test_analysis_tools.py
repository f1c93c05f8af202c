"""get_flops.py and benchmark.py, run as a user runs them, on models that are built in no time."""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

TOOLS = Path(__file__).parents[2] / 'tools' / 'analysis_tools'

CONFIG = '''
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[10, 20, 30], std=[1, 1, 1], bgr_to_rgb=True, size=(32, 48)),
    backbone=dict(type='{backbone}', img_size=(32, 48), patch_size=8, embed_dims=16, num_layers=4, num_heads=2),
    decode_head=dict(type='FCNHead', in_channels=16, channels=8, num_convs=1, num_classes=3, in_index=0),
    auxiliary_head=dict(type='FCNHead', in_channels=16, channels=8, num_convs=1, num_classes=3, in_index=0),
    test_cfg=dict(mode='whole'))
'''
BLOCK = 12 * 25 * 16**2 + 2 * 25**2 * 16  # 24 patches and a class token
HEAD = 24 * (16 * 8 * 9 + (16 + 8) * 8 * 9 + 8 * 3)  # conv, conv over its input and output, classifier


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def configs(tmp_path):
    (tmp_path / 'stock.py').write_text(CONFIG.format(backbone='VisionTransformer'))
    (tmp_path / 'dense.py').write_text(CONFIG.format(backbone='mmtoken.TokenVisionTransformer'))
    (tmp_path / 'pooled.py').write_text("_base_ = ['dense.py']\n"
                                        "model = dict(backbone=dict(reducer=dict(type='mmtoken.AvgPool', layer=2)))\n")
    for i in range(3):
        picture = np.random.default_rng(i).integers(0, 255, (40, 60, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f'{i}.png'), picture)
    return tmp_path


def run(monkeypatch, tool, *args):
    spec = importlib.util.spec_from_file_location(tool, TOOLS / f'{tool}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
    module.main()


def test_get_flops_by_part(configs, monkeypatch, capsys):
    run(monkeypatch, 'get_flops', configs / 'stock.py', '--json', configs / 'out.json')
    out = json.loads((configs / 'out.json').read_text())
    assert out['parts']['backbone.layers.0'] == [BLOCK] and out['parts']['decode_head'] == [HEAD]
    assert out['macs'] == [24 * 3 * 64 * 16 + 4 * BLOCK + HEAD]  # no auxiliary head
    printed = capsys.readouterr().out
    assert '1 multiply-add = 1 MAC' in printed and 'backbone.layers.3' in printed and 'gelu' in printed


def test_get_flops_over_pictures(configs, monkeypatch, capsys):
    run(monkeypatch, 'get_flops', configs / 'pooled.py', '--images', configs, '--num', 2, '--shape', 64, '--json',
        configs / 'out.json')
    out = json.loads((configs / 'out.json').read_text())
    assert out['shape'] == [64, 64] and len(out['macs']) == 2 and out['macs'][0] == out['macs'][1]
    assert '± 0.000' in capsys.readouterr().out


@pytest.mark.parametrize('args, message', [
    (['--images', 'nowhere'], "--images='nowhere' holds no pictures"),
    (['--cfg-options', 'model.data_preprocessor.size=None', 'model.backbone.img_size=None'], '--shape H W'),
])
def test_get_flops_refuses_in_one_line(configs, monkeypatch, args, message):
    with pytest.raises(SystemExit, match=message) as caught:
        run(monkeypatch, 'get_flops', configs / 'stock.py', *args)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('tool', ['get_flops', 'benchmark'])
def test_what_the_first_image_shows_is_one_line(configs, monkeypatch, tool):
    config = configs / 'large.py'
    config.write_text("_base_ = ['pooled.py']\nmodel = dict(backbone=dict(reducer=dict(grid=(9, 9))))\n")
    with pytest.raises(SystemExit, match="larger than the image's 4x6 tokens") as caught:
        run(monkeypatch, tool, config)
    assert '\n' not in str(caught.value)


def test_benchmark(configs, monkeypatch, capsys):
    run(monkeypatch, 'benchmark', configs / 'dense.py', configs / 'pooled.py', '--stock', '--batch', 1, 2, '--images',
        configs, '--rounds', 3, '--warmup', 1, '--threads', 1, '--device', 'cpu', '--json', configs / 'out.json')
    out = json.loads((configs / 'out.json').read_text())
    rows = {(row['name'], row['batch']): row for row in out['rows']}
    assert list(rows) == [(name, batch) for batch in (1, 2) for name in ('dense', 'pooled', 'stock')]
    assert rows['dense', 1]['macs'] == rows['stock', 1]['macs'] == 24 * 3 * 64 * 16 + 4 * BLOCK + HEAD
    assert rows['dense', 2]['speedup']['ratio'] == rows['dense', 2]['mac_ratio'] == 1
    pooled = rows['pooled', 2]
    assert pooled['mac_ratio'] == pytest.approx(pooled['macs'] / rows['dense', 2]['macs']) and pooled['mac_ratio'] < 1
    assert pooled['efficiency'] == pytest.approx(pooled['speedup']['ratio'] * pooled['mac_ratio'])
    assert len(pooled['seconds']) == 3
    assert out['tokens'] == {'dense': [24] * 4, 'pooled': [24, 24, 6, 6]} and out['inputs'] == '3 pictures'
    printed = capsys.readouterr().out
    assert 'tokens in each block, pooled: 24 x2, 6 x2' in printed and f'torch: {out["torch"]}' in printed


def test_benchmark_in_half_precision_against_no_stock_class(configs, monkeypatch):
    config = configs / 'dino.py'
    config.write_text("_base_ = ['dense.py']\nmodel = dict(backbone=dict(_delete_=True, type='mmtoken.TokenDINOv2', "
                      'patch_size=8, img_size=48, arch=dict(embed_dims=16, num_layers=2, num_heads=2)))\n')
    run(monkeypatch, 'benchmark', config, config, '--rounds', 1, '--amp', 'bf16', '--device', 'cpu', '--json',
        configs / 'out.json')
    out = json.loads((configs / 'out.json').read_text())
    assert out['precision'] == 'bf16' and [row['name'] for row in out['rows']] == ['dino', "dino'"]
    with pytest.raises(SystemExit, match='no class behind the backbone'):
        run(monkeypatch, 'benchmark', config, '--stock')


def test_pictures_are_normalised_as_the_config_says(configs):
    from mmtoken.analysis.loading import build_model, read_config, read_images
    model = build_model(read_config(configs / 'stock.py'))
    cv2.imwrite(str(configs / '0.png'), np.full((40, 60, 3), (1, 2, 3), np.uint8))
    images = read_images(model, configs, (32, 48), 1)
    assert images.shape == (1, 3, 32, 48)
    assert images[0, :, 5, 5].tolist() == [3 - 10, 2 - 20, 1 - 30]


def test_the_stock_model_is_upstreams_class(configs):
    from mmseg.models import EncoderDecoder
    from mmseg.models.backbones import VisionTransformer

    from mmtoken.analysis.loading import build_model, read_config, stock_config
    cfg = read_config(configs / 'pooled.py', {'model.type': 'mmtoken.TokenEncoderDecoder'})
    stock = build_model(stock_config(cfg, build_model(cfg)))
    assert type(stock) is EncoderDecoder and type(stock.backbone) is VisionTransformer
    assert 'reducer' in cfg.model.backbone  # the config itself is untouched
