"""tools/demo.py on what it reads, builds and draws; no picture is segmented."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import mmtoken  # noqa: F401
from mmtoken.engine.errors import UserError

spec = importlib.util.spec_from_file_location('demo', Path(__file__).parents[1] / 'tools/demo.py')
demo = importlib.util.module_from_spec(spec)
sys.modules['demo'] = demo  # its dataclass asks for it
spec.loader.exec_module(demo)


def test_pictures_of_one_name_are_all_read(tmp_path):
    paths = []
    for i, name in enumerate(('a/0.png', 'b/0.png', 'a/0.jpg')):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((4, 4 + i, 3), 9, np.uint8))
        paths.append(tmp_path / name)
    read = demo.pictures([*paths, paths[0]])
    assert [image.shape[1] for image in read.values()] == [4, 5, 6]
    (tmp_path / 'text.png').write_text('no picture')
    with pytest.raises(UserError, match='text.png'):
        demo.pictures([tmp_path / 'text.png'])


@pytest.mark.parametrize('state', ['none', 'stump', 'whole'])
def test_a_stump_of_the_backbone_is_made_again(tmp_path, monkeypatch, state):
    runs = []
    monkeypatch.setattr(demo, 'BACKBONE', tmp_path / 'b.pth')
    monkeypatch.setattr(
        demo.subprocess, 'run', lambda command: runs.append(command) or subprocess.CompletedProcess([], 0)
    )
    if state != 'none':
        torch.save(dict(state_dict=dict(a=torch.ones(9))), tmp_path / 'b.pth')
    if state == 'stump':
        (tmp_path / 'b.pth').write_bytes((tmp_path / 'b.pth').read_bytes()[:100])
    demo.convert_backbone()
    assert len(runs) == (state != 'whole')
    monkeypatch.setattr(demo.subprocess, 'run', lambda command: subprocess.CompletedProcess([], 2))
    (tmp_path / 'b.pth').unlink(missing_ok=True)
    with pytest.raises(SystemExit) as caught:
        demo.convert_backbone()
    assert caught.value.code == 2


def test_the_picture_that_comes_with_it_and_its_heads_are_there():
    assert demo.pictures(None)['retina'].shape == (1411, 1411, 3)
    for head in demo.HEADS.values():
        assert (demo.ROOT / head.weights).is_file() and next(iter(head.configs)) == 'dense'
        assert all((demo.ROOT / 'configs' / config).is_file() for config in head.configs.values())


def test_classes_and_tokens_have_a_legend():
    head = demo.HEADS['vessels']
    map_ = np.zeros((8, 8), np.int64)
    map_[2:4] = 1
    sizes = np.array([[1, 4], [16, 30]])
    titles = dict(dense='dense', mixed=('mixed', '4 tokens'))
    figure = demo.figure_of(
        np.full((8, 8, 3), 99, np.uint8), head, dict(dense=map_, mixed=map_), dict(mixed=sizes), titles
    )
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        'vessel',
        'token of 1 patch',
        'token of 2-4 patches',
        'token of 5-16 patches',
        'token of 17+ patches',
    ]
    picture, dense, _, tokens = [axes.images[0].get_array() for axes in figure.axes]
    assert (dense[0] == picture[0]).all() and (dense[2] != picture[2]).any()  # the background stays clear
    assert len(np.unique(tokens.reshape(-1, 3), axis=0)) == 4
