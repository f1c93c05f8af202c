"""The tool that writes drawn crowds."""

import runpy
import sys
from pathlib import Path

import cv2

import mmtoken

TOOL = Path(mmtoken.__file__).parents[1] / 'tools/misc/draw_crowd.py'


def test_it_writes_pictures(tmp_path, monkeypatch, capsys):
    arguments = ['--out', str(tmp_path / 'out'), '--number', '2', '--size', '112', '168', '--people', '1', '2']
    for more, width in (([], 168 * 3 + 112), (['--plain', '--seed', '3'], 168)):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *arguments, *more])
        runpy.run_path(str(TOOL), run_name='__main__')
        assert '2 pictures in' in capsys.readouterr().out
        pictures = sorted((tmp_path / 'out').glob(f'crowd-{3 if more else 0}-*.png'))
        assert [cv2.imread(str(path)).shape for path in pictures] == [(112, width, 3)] * 2
