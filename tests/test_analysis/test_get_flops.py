"""get_flops.py, run as a user runs it, on models that are built in no time; and what it shares with benchmark.py."""

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

BLOCK = 12 * 25 * 16**2 + 2 * 25**2 * 16  # 24 patches and a class token
HEAD = 16 * 8 * 9 + (16 + 8) * 8 * 9 + 8 * 3  # for each patch: conv, conv over its input and output, classifier


def test_get_flops_by_part(configs, run, model_macs):
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


def test_get_flops_takes_the_test_set_through_its_pipeline(configs, run, model_macs):
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


def test_get_flops_over_a_folder(configs, run, model_macs):
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


def test_get_flops_beside_the_dense_twin(configs, run, model_macs):
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
def test_get_flops_slides(configs, run, source, monkeypatch, model_macs):
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
def test_pictures_of_any_number_of_channels(configs, run, refuses, channels, model_macs):
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
def test_work_of_the_first_call_is_named_apart(configs, run, monkeypatch, source, model_macs):
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


def test_detectors_are_not_traced(monkeypatch):
    """Their loop over boxes made graphs that ended the process without a word."""
    from types import SimpleNamespace

    from mmtoken.analysis import second_opinion

    monkeypatch.setattr(second_opinion, 'task_of', lambda model: SimpleNamespace(name='detect'))
    opinion = second_opinion.second_opinion(torch.nn.Identity(), torch.zeros(1, 3, 4, 4))
    assert opinion.macs is None and 'boxes' in opinion.why


def test_get_flops_has_a_second_opinion(configs, run, model_macs):
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
