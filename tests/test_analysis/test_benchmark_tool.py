"""benchmark.py, run as a user runs it, on models that are built in no time."""

import json

import cv2
import numpy as np
import pytest
import torch


def test_benchmark(configs, run, model_macs):
    printed = run(
        'benchmark',
        configs / 'dense.py',
        configs / 'pooled.py',
        '--stock',
        '--batch',
        1,
        2,
        '--images',
        configs / 'pictures',
        '--rounds',
        5,
        '--warmup',
        1,
        '--threads',
        1,
        '--device',
        'cpu',
        '--json',
        configs / 'out.json',
    )
    out = json.loads((configs / 'out.json').read_text())
    rows = {(row['name'], row['batch']): row for row in out['rows']}
    smaller = {f'dense, ×{part} input': patches for part, patches in (('0.8', 3 * 5), ('0.65', 3 * 4), ('0.5', 2 * 3))}
    assert list(rows) == [(name, batch) for batch in (1, 2) for name in ('dense', 'pooled', 'stock', *smaller)]
    assert all(rows[name, 2]['macs'] == model_macs(patches) for name, patches in smaller.items())
    assert all(name in printed for name in smaller)
    assert rows['dense', 1]['macs'] == rows['stock', 1]['macs'] == model_macs(24)
    assert rows['dense', 2]['speedup']['ratio'] == rows['dense', 2]['mac_ratio'] == 1
    pooled = rows['pooled', 2]
    assert pooled['macs'] == model_macs(24, 6) and pooled['mac_ratio'] == pytest.approx(
        model_macs(24, 6) / model_macs(24)
    )
    assert pooled['efficiency'] == pytest.approx(pooled['speedup']['ratio'] * pooled['mac_ratio'])
    assert len(pooled['seconds']) == 5
    ms = pooled['ms_per_image']
    assert ms['p5'] <= ms['median'] <= ms['p95'] and ms['median'] == pytest.approx(
        sorted(pooled['seconds'])[2] * 1000 / 2
    )
    assert pooled['images_per_second'] == pytest.approx(1000 / ms['median'])
    tokens = {name: [patches] * 4 for name, patches in smaller.items()}
    assert out['tokens'] == {'dense': [24] * 4, 'pooled': [24, 24, 6, 6], **tokens}
    assert out['inputs'] == '3 pictures' and out['precision'] == 'fp32' and out['versions']['mmtoken']
    assert 'tokens in each block, pooled: 24 x2, 6 x2' in printed and f'torch: {out["torch"]}' in printed
    assert f'| {model_macs(24) / model_macs(24, 6):.2f} ' in printed  # MAC speed-up


def test_benchmark_takes_the_test_set_or_says_that_it_is_noise(configs, run, refuses, monkeypatch):
    args = ['benchmark', configs / 'dense.py', '--device', 'cpu', '--rounds', 5, '--warmup', 1]
    assert 'inputs: 2 pictures of the test set' in run(*args)
    (configs / 'street').rename(configs / 'gone')
    assert 'inputs: noise' in run(*args)
    from mmtoken.methods.avgpool import AvgPool

    monkeypatch.setattr(AvgPool, 'dynamic', True)
    refuses(
        'benchmark',
        configs / 'pooled.py',
        '--device',
        'cpu',
        words=['test_dataloader.dataset.data_prefix.img_path', '--images DIR'],
    )


def test_benchmark_of_a_dynamic_method_counts_the_pictures_one_by_one(configs, run, loud):
    (configs / 'loud.py').write_text(
        "_base_ = ['dense.py']\nmodel = dict(backbone=dict(reducer=dict(type='mmtoken.Loud', part=1.0, layer=2)))\n"
    )
    pictures = ['--images', configs / 'pictures', '--shape', 32, 48]
    torch.manual_seed(0)
    run('get_flops', configs / 'loud.py', *pictures, '--json', configs / 'flops.json')
    each = json.loads((configs / 'flops.json').read_text())['macs']
    assert len(each) == 3 and len(set(each)) > 1
    torch.manual_seed(0)
    printed = run(
        'benchmark',
        configs / 'loud.py',
        *pictures,
        '--no-smaller-input',
        '--batch',
        1,
        2,
        '--device',
        'cpu',
        '--rounds',
        5,
        '--warmup',
        1,
        '--json',
        configs / 'out.json',
    )
    out = json.loads((configs / 'out.json').read_text())
    assert [row['macs'] for row in out['rows']] == [sum(each) / 3] * 2
    assert [len(row['seconds']) for row in out['rows']] == [6, 6] and 'batch 1: 6 rounds: pictures differ' in printed


def test_benchmark_in_half_precision_against_no_stock_class(configs, run, refuses):
    config = configs / 'dino.py'
    config.write_text(
        "_base_ = ['dense.py']\nmodel = dict(backbone=dict(_delete_=True, type='mmtoken.TokenDINOv2', "
        'patch_size=8, img_size=48, arch=dict(embed_dims=16, num_layers=2, num_heads=2)))\n'
    )
    flags = ['--rounds', 5, '--amp', 'bf16', '--device', 'cpu', '--no-smaller-input', '--json', configs / 'out.json']
    run('benchmark', config, config, *flags)
    out = json.loads((configs / 'out.json').read_text())
    assert out['precision'] == 'bf16' and [row['name'] for row in out['rows']] == ['dino', "dino'"]
    refuses('benchmark', config, '--stock', '--device', 'cpu', words=['no class behind the backbone'])


def test_benchmark_keeps_a_config_that_is_called_stock(configs, run, model_macs):
    run(
        'benchmark',
        configs / 'pooled.py',
        configs / 'stock.py',
        '--stock',
        '--no-smaller-input',
        '--rounds',
        5,
        '--warmup',
        1,
        '--device',
        'cpu',
        '--json',
        configs / 'out.json',
    )
    rows = {row['name']: row['macs'] for row in json.loads((configs / 'out.json').read_text())['rows']}
    # the last has the size of the pictures of the first
    assert list(rows) == ['pooled', 'stock', "stock'"] and rows['stock'] == rows["stock'"] == model_macs(24)


def test_benchmark_sweeps_for_where_a_method_starts_to_win(configs, run, model_macs):
    printed = run(
        'benchmark',
        configs / 'dense.py',
        configs / 'pooled.py',
        '--breakeven',
        16,
        32,
        64,
        '--device',
        'cpu',
        '--rounds',
        5,
        '--warmup',
        1,
        '--json',
        configs / 'out.json',
    )
    out = json.loads((configs / 'out.json').read_text())
    assert [row['tokens'] for row in out['rows'] if row['name'] == 'pooled'] == [6, 24, 96]
    assert [row['shape'] for row in out['rows'] if row['name'] == 'dense'] == [[16, 24], [32, 48], [64, 96]]
    assert [row['macs'] for row in out['rows'] if row['name'] == 'dense'] == [model_macs(n) for n in (6, 24, 96)]
    (point,) = out['break_even']
    assert point['name'] == 'pooled' and point['text'] in printed and out['tokens']['dense'] == [24] * 4


def test_benchmark_leaves_out_a_size_that_the_model_refuses(configs, run, monkeypatch):
    from mmseg.models import EncoderDecoder

    encode_decode = EncoderDecoder.encode_decode

    def fixed(self, inputs, metas):
        assert inputs.shape[2:] != (16, 24), 'this model runs at one size'
        return encode_decode(self, inputs, metas)

    monkeypatch.setattr(EncoderDecoder, 'encode_decode', fixed)
    flags = ['--device', 'cpu', '--rounds', 5, '--warmup', 1, '--smaller-input', 0.75, 0.5]
    printed = run('benchmark', configs / 'dense.py', *flags)
    assert 'dense, ×0.5 input: left out, the model does not run at this size (this model runs at one size)' in printed
    assert printed.count('| dense, ×0.75 input') == 1 and '| dense, ×0.5 input' not in printed


def test_benchmark_of_a_training_step(configs, run, model_macs):
    run(
        'benchmark',
        configs / 'dense.py',
        configs / 'pooled.py',
        '--train',
        '--device',
        'cpu',
        '--rounds',
        5,
        '--warmup',
        1,
        '--json',
        configs / 'out.json',
    )
    out = json.loads((configs / 'out.json').read_text())
    assert out['timed'] == 'training step' and out['rows'][0]['batch'] == 2
    # the auxiliary head trains: convs of both pyramids, conv over all, classifier
    auxiliary = (1 + 4) * 16 * 8 + 24 * ((16 + 8 + 8) * 8 * 9 + 8 * 3)
    assert [row['macs'] for row in out['rows']] == [model_macs(24) + auxiliary, model_macs(24, 6) + auxiliary]


@pytest.mark.parametrize(
    'args, words',
    [
        (['--cuda-graph'], ['--cuda-graph needs a GPU', '--device cpu']),
        (['--train', '--batch', 1], ['batch normalisation of dense', '--batch 2']),
        (['--checkpoint', 'gone.pth'], ['checkpoint not found: gone.pth']),
        (['--images', 'nowhere'], ["--images='nowhere' holds no pictures"]),
    ],
)
def test_benchmark_refuses(configs, refuses, args, words):
    refuses('benchmark', configs / 'dense.py', '--device', 'cpu', *args, words=words)


def test_benchmark_refuses_configs(configs, refuses):
    refuses('benchmark', configs / 'dense.py', configs / 'gone.py', words=['config file not found', 'gone.py'])
    (configs / 'loose.py').write_text("_base_ = ['dense.py']\noptim_wrapper = None\n")
    refuses(
        'benchmark',
        configs / 'dense.py',
        configs / 'loose.py',
        '--train',
        '--device',
        'cpu',
        words=['--train: the config of loose has no optim_wrapper'],
    )


@pytest.mark.parametrize('flag, value', [('rounds', 4), ('warmup', 0), ('batch', 0), ('num', 0)])
def test_benchmark_has_a_least_of_everything(configs, run, capsys, flag, value):
    with pytest.raises(SystemExit) as caught:
        run('benchmark', configs / 'dense.py', f'--{flag}', value)
    assert caught.value.code == 2 and f'--{flag} {value}: give' in capsys.readouterr().err


@pytest.mark.parametrize(
    'items, num, expected',
    [(19, 10, range(0, 19, 2)), (7, 3, [0, 3, 6]), (4, 9, range(4)), (5, 1, [0]), (233, 4, [0, 77, 155, 232])],
)
def test_pictures_are_spread_evenly(items, num, expected):
    from mmtoken.analysis.loading import spread_out

    assert spread_out(range(items), num) == list(expected)


def test_pictures_are_normalised_as_the_config_says(configs):
    from mmtoken.analysis.loading import build_model, read_config, read_images

    model = build_model(read_config(configs / 'stock.py'))
    cv2.imwrite(str(configs / 'pictures/0.png'), np.full((40, 60, 3), (1, 2, 3), np.uint8))
    images = read_images(model, configs / 'pictures', (32, 48), 1)
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
