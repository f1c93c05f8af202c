"""tools/demo.py on what it reads and writes; no model is run."""

import importlib.util
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import mmtoken  # noqa: F401
from mmtoken.engine.errors import UserError

pytest.importorskip('sklearn')
spec = importlib.util.spec_from_file_location('demo', Path(__file__).parents[1] / 'tools/demo.py')
demo = importlib.util.module_from_spec(spec)
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
