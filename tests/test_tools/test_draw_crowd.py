"""The tool that writes drawn crowds."""

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np

import mmtoken
from mmtoken.hmr.data import HumanDataset, SyntheticCrowd

TOOL = Path(mmtoken.__file__).parents[1] / 'tools/misc/draw_crowd.py'


def test_it_writes_pictures(tmp_path, monkeypatch, capsys):
    arguments = ['--out', str(tmp_path / 'out'), '--number', '2', '--size', '112', '168', '--people', '1', '2']
    for more, width in (([], 168 * 3 + 112), (['--plain', '--seed', '3'], 168)):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *arguments, *more])
        runpy.run_path(str(TOOL), run_name='__main__')
        assert '2 pictures in' in capsys.readouterr().out
        pictures = sorted((tmp_path / 'out').glob(f'crowd-{3 if more else 0}-*.png'))
        assert [cv2.imread(str(path)).shape for path in pictures] == [(112, width, 3)] * 2


def test_labels_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, 'argv', [str(TOOL), '--out', str(tmp_path), '--number', '3', '--size', '112', '112', '--plain']
    )
    runpy.run_path(str(TOOL), run_name='__main__')
    crowd = SyntheticCrowd(length=3, size=(112, 112))
    again = HumanDataset(
        str(tmp_path / 'people.npz'),
        data_prefix=dict(img=str(tmp_path)),
        body_model=dict(type='FreeBody'),
        pipeline=[dict(type='mmtoken.LoadPeople')],
    )
    assert len(again) == sum(len(crowd[i]['gt_pose']) > 0 for i in range(3)) > 1
    for i in range(len(again)):
        read = again[i]
        drawn = crowd[int(Path(read['img_path']).stem[-6:])]
        assert np.array_equal(read['img'], drawn['img'])
        np.testing.assert_allclose(read['gt_keypoints'], drawn['gt_keypoints'], atol=0.05)
        np.testing.assert_allclose(read['gt_pose'], drawn['gt_pose'], atol=1e-6)
