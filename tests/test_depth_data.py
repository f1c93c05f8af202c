"""Depth maps: what is loaded as metres, and what ends with one line that names the file."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmtoken  # noqa: F401
from mmtoken.datasets import LoadDepth
from mmtoken.engine.configs import load_config, name_bad_files
from mmtoken.registry import DATASETS

ROOT = Path(__file__).parents[1]
MILLIMETRES = np.array([[500, 0, 65535], [1234, 10000, 10001]], np.uint16)


def load(path, size=(2, 3), **kwargs):
    step = LoadDepth(**{**dict(depth_rescale_factor=1e-3, max_depth=10.0), **kwargs})
    return step(dict(depth_map_path=str(path), ori_shape=size, seg_fields=[]))['gt_depth_map']


def test_what_was_not_measured_is_zero(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), MILLIMETRES)
    depth = load(tmp_path / 'a.png')
    assert depth.dtype == np.float32 and np.allclose(depth, [[0.5, 0, 0], [1.234, 10, 0]])
    assert np.allclose(load(tmp_path / 'a.png', max_depth=None), MILLIMETRES * 1e-3)
    cv2.imwrite(str(tmp_path / 'a.tiff'), np.array([[1.5, np.nan, np.inf], [-1, 2, 3]], np.float32))
    assert np.allclose(load(tmp_path / 'a.tiff', depth_rescale_factor=1.0), [[1.5, 0, 0], [0, 2, 3]])


@pytest.mark.parametrize(
    'write, kwargs, words',
    [
        (lambda path: None, {}, ['cannot be read as a depth map', 'No such file']),
        (lambda path: path.write_bytes(b'no picture'), {}, ['cannot be read as a depth map']),
        (lambda path: path.write_bytes(b''), {}, ['cannot be read as a depth map']),
        (MILLIMETRES[:, :2], {}, ['the depth map is 2×2, its picture 2×3']),
        (np.stack([MILLIMETRES] * 3, 2), {}, ['the depth map is 2×3×3']),
        (MILLIMETRES * 0, {}, ['no depth in metres', 'stored are 0 to 0']),
        (MILLIMETRES * 0 + 65535, {}, ['no depth in metres', 'stored are 65535 to 65535']),
        (MILLIMETRES, dict(depth_rescale_factor=1.0), ['stored are 0 to 65535', 'depth_rescale_factor=1 ']),
        (MILLIMETRES // 7, dict(depth_rescale_factor=1e-6), ['depth_rescale_factor=1e-06', 'max_depth=10.0']),
    ],
)
def test_bad_depths_are_named(tmp_path, write, kwargs, words):
    path = tmp_path / 'a.png'
    write(path) if callable(write) else cv2.imwrite(str(path), write)
    with pytest.raises(ValueError) as caught:
        load(path, **kwargs)
    message = str(caught.value)
    assert message.startswith(f'{path}: ') and '\n' not in message
    assert all(word in message for word in words), message


def test_the_tools_look_at_depths_of_stock_configs():
    cfg = load_config('mmseg::vpd/vpd_sd_4xb8-25k_nyu-480x480.py')
    name_bad_files(cfg)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        (step,) = [step for step in loader.dataset.pipeline if 'depth_rescale_factor' in step]
        assert step == dict(type='mmtoken.LoadDepth', depth_rescale_factor=1e-3, max_depth=10)


def test_a_room_is_read_as_its_config_says(tmp_path):
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/rgbd.py')
    init_default_scope('mmseg')
    (tmp_path / 'val').mkdir()
    cv2.imwrite(str(tmp_path / 'val/frame-000800.jpg'), np.zeros((48, 64, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'val/frame-000800.png'), np.full((48, 64), 2000, np.uint16))
    dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, data_root=str(tmp_path)))
    assert len(dataset) == 1
    item = dataset[0]
    assert item['inputs'].shape == (3, 420, 560), 'the picture is resized'
    assert item['data_samples'].gt_depth_map.data.shape == (1, 48, 64), 'the depth is not'
    assert (item['data_samples'].gt_depth_map.data == 2).all()
