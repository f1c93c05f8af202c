"""tools/demo_hmr.py with a tiny model whose weights are random: what it prints, draws and refuses."""

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

import mmtoken  # noqa: F401
from mmtoken.analysis.loading import build_model, read_config

TOOLS = Path(__file__).parents[1] / 'tools'
BASE = """
default_scope = 'mmdet'
model = dict(
    type='mmtoken.TokenHumanMesh',
    data_preprocessor=dict(type='mmdet.DetDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, pad_size_divisor=56),
    backbone=dict(
        type='mmtoken.TokenDINOv2', arch=dict(embed_dims=32, num_layers=3, num_heads=2), img_size=56, fit='pad'
    ),
    input_size=112,
    num_queries=4,
    decoder=dict(dims=32, layers=2, heads=2, hidden=64),
    denoising=dict(groups=1),
    test_cfg=dict(score_thr=0.0),
)
crowd = dict(type='mmtoken.SyntheticCrowd', size=(112, 112), people=(1, 2), scales=(0.3, 0.9), length=9, seed=1)
test_dataloader = dict(dataset=crowd)
test_evaluator = dict(type='mmtoken.HumanMeshMetric', score_thr=0.0)
"""
SAT = "_base_ = './dense.py'\nmodel = dict(backbone=dict(reducer=dict(type='mmtoken.SAT', blocks=1)))\n"
SMALL = "_base_ = './dense.py'\nmodel = dict(input_size=56)\n"


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location('demo_hmr', TOOLS / 'demo_hmr.py')
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'demo_hmr', module)  # its dataclass asks for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(demo, monkeypatch, tmp_path, capsys):
    """Runs the demo on tiny models; returns the lines that it prints. SAT and the smaller one have weights."""
    monkeypatch.chdir(tmp_path)
    configs = {}
    for name, text in (('dense', BASE), ('input ×0.5', SMALL), ('SAT', SAT)):
        configs[name] = tmp_path / {'input ×0.5': 'small'}.get(name, name)
        configs[name] = configs[name].with_suffix('.py')
        configs[name].write_text(text)
    torch.manual_seed(0)
    model = build_model(read_config(configs['SAT']))
    state = model.state_dict()
    head = {name: v.half() for name, v in state.items() if not name.startswith('backbone.') or '.reducer.head.' in name}
    own = {n.removeprefix('backbone.'): v for n, v in state.items() if n not in head and '.reducer.' not in n}
    torch.save(own, tmp_path / 'backbone.pth')
    (tmp_path / 'weights').mkdir()
    torch.save(dict(state_dict=head), tmp_path / 'weights/SAT.pth')
    torch.save({name: v for name, v in head.items() if 'reducer' not in name}, tmp_path / 'weights/small.pth')
    for name, value in (('CONFIGS', configs), ('BACKBONE', tmp_path / 'backbone.pth'), ('ROOT', tmp_path)):
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, 'convert_backbone', lambda: None)

    def main(*argv):
        monkeypatch.setattr(sys, 'argv', ['demo_hmr.py', '--rounds', '1', '--device', 'cpu', *map(str, argv)])
        demo.main()
        return capsys.readouterr().out.splitlines()

    return main


def test_crowds_are_compared_with_the_truth(run, tmp_path):
    lines = run('--number', 2)
    assert [line.split(':')[0] for line in lines[:2]] == ['crowd 0', 'crowd 1'] and ' people, 4 found, ' in lines[0]
    head, *rows, last = lines[4:]
    assert head.split()[-3:] == ['MPJPE', 'MVE', '(mm)'] and 'people.png' in last
    dense, small, sat = rows
    assert dense.startswith('dense') and dense.endswith('no weights of its own')
    assert int(dense.split()[5]) == 4 * int(small.split()[6]) == 64  # tokens
    assert all(0 <= float(row.split()[-3]) <= 1 for row in (small, sat))  # F1
    image = cv2.imread(str(tmp_path / 'outputs/people.png'))
    assert image.shape == (2 * (112 + 28), 5 * 112, 3)


def test_pictures_of_yours_have_no_truth(run, demo, tmp_path):
    for name, size in (('a', (60, 90)), ('b', (1000, 500))):
        cv2.imwrite(f'{name}.png', np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    lines = run('--image', 'a.png', 'b.png', '--fov', 50, '--out-dir', 'here')
    assert [line.split(',')[0] for line in lines[:2]] == ['a: 4 found', 'b: 4 found']
    assert 'MPJPE' not in ''.join(lines) and 'no weights' not in ''.join(lines)
    # b is drawn 672 pixels high; of its panels the one from above is a square.
    assert cv2.imread('here/people.png').shape[1] == 4 * 336 + 672


def test_missing_and_other_weights_are_one_line(run, tmp_path, capsys):
    (tmp_path / 'weights/SAT.pth').rename(tmp_path / 'other.pth')
    head = torch.load('other.pth')['state_dict']
    torch.save(head | {'content': torch.zeros(7, 32)}, 'seven.pth')
    for argv, words in (
        ((), 'no trained model: weights/SAT.pth is not there; train SAT.py as'),
        (('--weights', 'seven.pth'), 'seven.pth: made for another model than '),
        (('--image', 'gone.png', '--weights', 'other.pth'), '--image: cannot read gone.png'),
        (('--image', 'a.png', '--number', 3), '--number would do nothing beside --image'),
        (('--fov', 50), '--fov would do nothing without --image'),
        (('--number', 0), '--number 0: give 1 or more'),
    ):
        with pytest.raises(SystemExit) as caught:
            run(*argv)
        lines = capsys.readouterr().err.splitlines()
        assert caught.value.code == 2 and len(lines) == 1 and words in lines[0], (argv, lines)


def test_the_configs_are_there_and_the_weights_fit(demo):
    for config in demo.CONFIGS.values():
        assert Config.fromfile(config).test_dataloader.dataset.type == 'mmtoken.SyntheticCrowd'
    sizes = [Config.fromfile(config).model.input_size for config in demo.CONFIGS.values()]
    assert sizes[0] == 2 * sizes[1] == sizes[2]
