"""get_flops.py and benchmark.py, run as a user runs them, on models that are built in no time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

TOOLS = Path(__file__).parents[2] / 'tools' / 'analysis_tools'

CONFIG = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[10, 20, 30], std=[1, 1, 1], bgr_to_rgb=True, size=(32, 48)),
    backbone=dict(type='{backbone}', img_size=(32, 48), patch_size=8, embed_dims=16, num_layers=4, num_heads=2),
    decode_head=dict(type='FCNHead', in_channels=16, channels=8, num_convs=1, num_classes=3, in_index=0),
    auxiliary_head=dict(type='PSPHead', in_channels=16, channels=8, num_classes=3, in_index=0, pool_scales=(1, 2),
                        norm_cfg=dict(type='BN')),
    test_cfg=dict(mode='whole'))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3))
test_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(
    type='BaseSegDataset', data_root={root!r}, data_prefix=dict(img_path='street'), img_suffix='.png',
    metainfo=dict(classes=('a', 'b', 'c')), test_mode=True, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='Resize', scale_factor=0.8), dict(type='PackSegInputs')]))
"""
#: Patches of the two pictures of the test set as its pipeline makes them, 32x48 and 48x64 pixels.
STREET = (24, 48)


@pytest.fixture
def configs(tmp_path):
    """A folder with three configs, three pictures, and two pictures of other sizes in ``street``."""
    for name, backbone in (('stock', 'VisionTransformer'), ('dense', 'mmtoken.TokenVisionTransformer')):
        (tmp_path / f'{name}.py').write_text(CONFIG.format(backbone=backbone, root=str(tmp_path)))
    (tmp_path / 'pooled.py').write_text(
        "_base_ = ['dense.py']\nmodel = dict(backbone=dict(reducer=dict(type='mmtoken.AvgPool', layer=2)))\n"
    )
    rng = np.random.default_rng(0)
    (tmp_path / 'pictures').mkdir()
    (tmp_path / 'street').mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / f'pictures/{i}.png'), rng.integers(0, 255, (40, 60, 3), np.uint8))
    for i, size in enumerate([(40, 60), (60, 80)]):
        cv2.imwrite(str(tmp_path / f'street/{i}.png'), rng.integers(0, 255, (*size, 3), np.uint8))
    return tmp_path


@pytest.fixture
def run(call, capsys):
    """Runs an analysis tool in this process and gives what it printed."""

    def printed(*args):
        capsys.readouterr()
        call(*args)
        return capsys.readouterr().out

    return printed


# ------------------------------------------------------------------------------------------------------ get_flops.py
BLOCK = 12 * 25 * 16**2 + 2 * 25**2 * 16  # 24 patches and a class token
HEAD = 16 * 8 * 9 + (16 + 8) * 8 * 9 + 8 * 3  # for each patch: conv, conv over its input and output, classifier


def model_macs(patches, after=None):
    """Whole model; blocks 2 and 3 on ``after`` tokens."""
    blocks = [12 * (n + 1) * 16**2 + 2 * (n + 1) ** 2 * 16 for n in (patches, after or patches)]
    return patches * 3 * 64 * 16 + 2 * sum(blocks) + patches * HEAD


def test_get_flops_by_part(configs, run):
    printed = run('get_flops', configs / 'stock.py', '--shape', '--modules', '--json', configs / 'out.json')
    out = json.loads((configs / 'out.json').read_text())
    assert out['parts']['backbone.layers.0'] == [BLOCK] and out['parts']['decode_head'] == [24 * HEAD]
    assert out['macs'] == [model_macs(24)]  # no auxiliary head
    assert out['split'] == dict(
        stem=[24 * 3 * 64 * 16], blocks=[4 * BLOCK], reduce=[0], restore=[0], neck=[0], heads=[24 * HEAD], other=[0]
    )
    assert out['uncounted']['gelu'] == [4, 4 * 25 * 64] and out['missed'] == []
    assert '1 multiply-add = 1 MAC' in printed and 'backbone.layers.3' in printed
    assert 'gelu (4 calls, 6.4 k elements)' in printed


def test_get_flops_takes_the_test_set_through_its_pipeline(configs, run):
    printed = run('get_flops', configs / 'pooled.py', '--json', configs / 'out.json')
    out = json.loads((configs / 'out.json').read_text())
    assert out['sizes'] == [[32, 48], [48, 64]]
    assert out['macs'] == [model_macs(24, 6), model_macs(48, 12)]
    assert out['tokens'] == dict(mean=[36, 36, 9, 9], min=[24, 24, 6, 6], max=[48, 48, 12, 12])
    low, high = (macs / 1e9 for macs in out['macs'])
    assert f'total  | {(low + high) / 2:.3f} ± {abs(high - low) / 2**0.5:.3f} ({low:.3f}-{high:.3f})' in printed
    assert '2 pictures of the test set, 32x48 to 48x64' in printed
    assert 'Tokens in each block: 36 (24-48) x2, 9 (6-12) x2' in printed
    run('get_flops', configs / 'pooled.py', '--dataset', 1, '--json', configs / 'out.json')
    assert json.loads((configs / 'out.json').read_text())['macs'] == [model_macs(24, 6)]


def test_get_flops_names_the_smallest_and_the_largest_size(configs, run):
    options = ['test_dataloader.dataset.pipeline.1.scale_factor=1.6']  # 64x96 and 96x128
    assert '64x96 to 96x128' in run('get_flops', configs / 'dense.py', '--cfg-options', *options)
    cv2.imwrite(str(configs / 'street/2.png'), np.zeros((80, 100, 3), np.uint8))
    assert '64x96 to 128x160' in run('get_flops', configs / 'dense.py', '--cfg-options', *options)


@pytest.mark.parametrize('tool', ['get_flops', 'benchmark'])
def test_the_folder_of_the_numbers_is_made_or_refused_before_the_work(configs, run, refuses, tool):
    args = [configs / 'dense.py', *['--shape', 32, 48], '--device', 'cpu']
    args += ['--rounds', 5, '--warmup', 1] if tool == 'benchmark' else []
    run(tool, *args, '--json', configs / 'new/folder/out.json')
    assert json.loads((configs / 'new/folder/out.json').read_text())['command']
    (configs / 'broken.py').write_text("_base_ = ['nowhere.py']")  # is not even read
    refuses(
        tool,
        configs / 'broken.py',
        '--json',
        configs / 'dense.py/out.json',
        '--device',
        'cpu',
        words=['--json', 'dense.py/out.json: cannot make the folder'],
    )
    refuses(tool, configs / 'broken.py', '--json', configs, '--device', 'cpu', words=['--json', 'this is a folder'])


def test_get_flops_over_a_folder(configs, run):
    run(
        'get_flops',
        configs / 'pooled.py',
        '--images',
        configs / 'pictures',
        '--dataset',
        2,
        '--shape',
        64,
        '--json',
        configs / 'out.json',
    )
    out = json.loads((configs / 'out.json').read_text())
    assert out['sizes'] == [[64, 64]] * 2 and out['macs'] == [model_macs(64, 16)] * 2


def test_get_flops_beside_the_dense_twin(configs, run):
    printed = run(
        'get_flops',
        configs / 'pooled.py',
        '--shape',
        '--baseline',
        configs / 'stock.py',
        '--json',
        configs / 'out.json',
    )
    out = json.loads((configs / 'out.json').read_text())
    assert out['macs'] == [model_macs(24, 6)] and out['baseline']['macs'] == [model_macs(24)]
    row = next(line for line in printed.splitlines() if line.startswith('| blocks')).split('|')
    small = 12 * 7 * 16**2 + 2 * 7**2 * 16
    assert row[5].strip() == f'{(2 * BLOCK + 2 * small) / (4 * BLOCK):.3f}'


@pytest.mark.parametrize('source', [['--shape', 32, 80], ['--images', 'pictures', '--shape', 32, 80]])
def test_get_flops_slides(configs, run, source, monkeypatch):
    monkeypatch.chdir(configs)
    printed = run(
        'get_flops',
        'pooled.py',
        *source,
        '--json',
        'out.json',
        '--cfg-options',
        'model.test_cfg.mode=slide',
        'model.test_cfg.crop_size=(32,48)',
        'model.test_cfg.stride=(16,16)',
    )
    out = json.loads((configs / 'out.json').read_text())
    count = len(out['macs'])
    assert out['crops'] == [3] * count and out['macs'] == [3 * model_macs(24, 6)] * count
    assert out['tokens']['mean'] == [24, 24, 6, 6]  # of a crop
    assert f'3 crops a picture, {model_macs(24, 6) / 1e9:.3f} GMACs a crop' in printed


@pytest.mark.parametrize('channels', [1, 4])
def test_pictures_of_any_number_of_channels(configs, run, refuses, channels):
    size = (40, 60) if channels == 1 else (40, 60, channels)
    (configs / 'many').mkdir()
    for i in range(2):
        cv2.imwrite(str(configs / f'many/{i}.png'), np.random.default_rng(i).integers(0, 255, size, np.uint8))
    numbers = [10.0] * channels
    (configs / 'many.py').write_text(
        "_base_ = ['pooled.py']\n"
        f'model = dict(data_preprocessor=dict(mean={numbers}, std={numbers}, bgr_to_rgb=False),\n'
        f'             backbone=dict(in_channels={channels}))\n'
        "test_dataloader = dict(dataset=dict(data_prefix=dict(img_path='many'), pipeline=[\n"
        "    dict(type='LoadImageFromFile', color_type='unchanged'), dict(type='PackSegInputs')]))\n"
    )
    macs = model_macs(24, 6) + 24 * (channels - 3) * 64 * 16
    folder = ['--images', configs / 'many', '--shape', 32, 48]
    for source in (['--shape', 32, 48], folder):
        run('get_flops', configs / 'many.py', *source, '--json', configs / 'out.json')
        assert set(json.loads((configs / 'out.json').read_text())['macs']) == {macs}
    timing = ['--rounds', 5, '--warmup', 1, '--device', 'cpu', '--no-smaller-input', '--json', configs / 'out.json']
    for source in (folder, ['--num', 1]):
        run('benchmark', configs / 'many.py', *source, *timing)
        assert json.loads((configs / 'out.json').read_text())['rows'][0]['macs'] == macs
    (configs / 'many').rename(configs / 'gone')
    assert 'inputs: noise' in run('benchmark', configs / 'many.py', *timing)
    (configs / 'gone').rename(configs / 'many')
    torch.manual_seed(0)
    from mmtoken.analysis.loading import build_model, read_config

    weights = configs / 'many.pth'
    torch.save(build_model(read_config(configs / 'many.py')).state_dict(), weights)
    run('vis_tokens', configs / 'many.py', weights, configs / 'many/0.png', '--out', configs / 'out.png')
    assert cv2.imread(str(configs / 'out.png')) is not None
    wrong = ['--images', configs / 'pictures', '--shape', 32, 48]
    refuses('get_flops', configs / 'many.py', *wrong, words=['0.png', '3 channels', f'takes {channels}'])


ONCE_HEAD = """
import torch
from mmseg.models import FCNHead
from mmseg.registry import MODELS

@MODELS.register_module()
class PromptedHead(FCNHead):
    text = None

    def forward(self, inputs):
        if self.text is None:  # encoded once and kept
            self.text = torch.ones(50, 40, device=inputs[0].device) @ torch.ones(40, 30, device=inputs[0].device)
        return super().forward(inputs)
"""


@pytest.mark.parametrize('source', [['--shape', 32, 48], ['--images', 'pictures', '--shape', 32, 48]])
def test_work_of_the_first_call_is_named_apart(configs, run, monkeypatch, source):
    monkeypatch.chdir(configs)
    monkeypatch.syspath_prepend(str(configs))
    (configs / 'prompted_head.py').write_text(ONCE_HEAD)
    (configs / 'prompted.py').write_text(
        "_base_ = ['dense.py']\ncustom_imports = dict(imports=['prompted_head'])\n"
        "model = dict(decode_head=dict(type='PromptedHead'))\n"
    )
    printed = run('get_flops', 'prompted.py', *source, '--json', 'out.json')
    out = json.loads(Path('out.json').read_text())
    assert set(out['macs']) == {model_macs(24)} and out['once'] == 50 * 40 * 30
    assert 'Once: +0.000 GMACs in the first call alone' in printed
    assert 'Once' not in run('get_flops', 'dense.py', *source)
    run('benchmark', 'prompted.py', *source[-3:], '--rounds', 5, '--device', 'cpu', '--json', 'out.json')
    assert json.loads(Path('out.json').read_text())['rows'][0]['macs'] == model_macs(24)


def test_get_flops_has_a_second_opinion(configs, run):
    printed = run('get_flops', configs / 'dense.py', '--shape', '--json', configs / 'out.json')
    theirs, ours = json.loads((configs / 'out.json').read_text())['fvcore'], model_macs(24)
    attention = 4 * 2 * 25**2 * 16
    assert theirs['macs'] == ours - attention and theirs['unknown']['aten::scaled_dot_product_attention'] == 4
    assert f'GMACs, {attention / ours:.1%} missing: aten::scaled_dot_product_attention (4 calls)' in printed
    assert 'fvcore' not in run('get_flops', configs / 'dense.py', '--shape', '--no-fvcore')


def test_a_model_that_fvcore_cannot_trace():
    from mmtoken.analysis.second_opinion import second_opinion

    class Moody(torch.nn.Module):
        def forward(self, images):
            return [images.sum().tolist()]

    opinion = second_opinion(Moody(), torch.zeros(1, 3, 4, 4))
    assert opinion.line(10) == 'fvcore: cannot trace this model (TypeError)'


ODD_CONFIG = """
_base_ = ['dense.py']
custom_imports = dict(imports=['odd_head'])
model = dict(decode_head=dict(type='OddHead'))
"""
ODD_HEAD = """
import torch
from mmseg.models import FCNHead
from mmseg.registry import MODELS

@torch.library.custom_op("odd::window_attention", mutates_args=())
def window_attention(x: torch.Tensor) -> torch.Tensor:
    return x.clone()

@MODELS.register_module()
class OddHead(FCNHead):
    def forward(self, inputs):
        return window_attention(super().forward(inputs))
"""


def test_get_flops_ends_with_1_if_a_product_was_missed(configs):
    """In a process of its own, for the exit code."""
    (configs / 'odd.py').write_text(ODD_CONFIG)
    (configs / 'odd_head.py').write_text(ODD_HEAD)
    command = [sys.executable, '-W', 'ignore', TOOLS / 'get_flops.py', 'odd.py', '--shape']
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(['.', os.environ.get('PYTHONPATH', '')]))
    done = subprocess.run(command, cwd=configs, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and '| total' in done.stdout
    assert 'The total is too low' in done.stderr and 'odd::window_attention (1 calls, 72 elements)' in done.stderr


@pytest.mark.parametrize(
    'config, baseline, words',
    [
        ('pooled', 'odd', ["The baseline's total is too low", 'tanh (2 calls']),
        ('odd', 'pooled', ['The total is too low']),
    ],
)
def test_get_flops_looks_at_the_baseline_too(configs, run, capsys, monkeypatch, config, baseline, words):
    monkeypatch.setattr('mmtoken.analysis.counter.looks_like_a_product', lambda name: name == 'tanh')
    (configs / 'odd.py').write_text(
        "_base_ = ['dense.py']\nmodel = dict(decode_head=dict(act_cfg=dict(type='Tanh')))\n"
    )
    with pytest.raises(SystemExit) as caught:
        run('get_flops', configs / f'{config}.py', '--shape', '--baseline', configs / f'{baseline}.py')
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert caught.value.code == 1 and all(word in line for word in words)


@pytest.mark.parametrize(
    'args, words',
    [
        (['nowhere.py'], ['config file not found: nowhere.py']),
        (['stock.py', '--images', 'nowhere'], ["--images='nowhere' holds no pictures"]),
        (['stock.py', '--images', 'broken'], ['--images: cannot read broken/a.png']),
        (['stock.py', '--shape', 1, 2, 3], ['--shape 1 2 3 is no image size']),
        (
            [
                'stock.py',
                '--shape',
                '--cfg-options',
                'model.data_preprocessor.size=None',
                'model.backbone.img_size=None',
            ],
            ['--shape H W'],
        ),
        (
            ['stock.py', '--cfg-options', 'test_dataloader.dataset.data_root=/no/street'],
            ['test_dataloader.dataset.data_root', '/no/street', '--images DIR', '--shape H W'],
        ),
        (['stock.py', '--cfg-options', 'test_dataloader=None'], ['no test_dataloader', '--shape H W']),
        (['stock.py', 'gone.pth'], ['checkpoint not found: gone.pth']),
        (['stock.py', '--baseline', 'gone.py'], ['config file not found: gone.py']),
        (
            ['pooled.py', '--shape', '--cfg-options', 'model.backbone.reducer.grid=(9,9)'],
            ["larger than the image's 4x6 tokens"],
        ),
        (['stock.py', '--device', 'xpu'], ['--device xpu', '--device cpu']),
    ],
)
def test_get_flops_refuses(configs, refuses, monkeypatch, args, words):
    monkeypatch.chdir(configs)
    (configs / 'broken').mkdir()
    (configs / 'broken/a.png').write_text('no picture')
    refuses('get_flops', *args, words=words)


def test_get_flops_wants_pictures_for_what_depends_on_them(configs, refuses, run, monkeypatch):
    from mmtoken.methods.avgpool import AvgPool

    monkeypatch.setattr(AvgPool, 'dynamic', True)
    refuses('get_flops', configs / 'pooled.py', '--shape', words=['--shape', 'depends on the picture', '--images DIR'])
    assert 'Weights are random' in run('get_flops', configs / 'pooled.py')


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without a GPU')
@pytest.mark.parametrize('tool', ['get_flops', 'benchmark'])
def test_a_gpu_that_is_not_there(configs, refuses, tool):
    refuses(tool, configs / 'dense.py', '--device', 'cuda', words=['--device cuda', 'use --device cpu'])


# ------------------------------------------------------------------------------------------------------ benchmark.py
def test_benchmark(configs, run):
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


def test_benchmark_keeps_a_config_that_is_called_stock(configs, run):
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


def test_benchmark_sweeps_for_where_a_method_starts_to_win(configs, run):
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


def test_benchmark_of_a_training_step(configs, run):
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
