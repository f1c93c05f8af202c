"""Depth maps: what is loaded as metres, and what ends with one line that names the file."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmtoken  # noqa: F401
from mmtoken.datasets import BottomCrop, LoadDepth
from mmtoken.engine.configs import load_config, name_bad_files
from mmtoken.evaluation import DepthMetric
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


# --------------------------------------------------------------------------------------------------------------- KITTI
@pytest.fixture
def kitti(tmp_path):
    """A picture with a depth map, 2 m on the left and 4 m on the right; one without; a list of both."""
    for part in ('raw', 'depth', 'splits'):
        (tmp_path / part).mkdir()
    picture = np.zeros((375, 1242, 3), np.uint8)
    picture[-1, :, 0] = np.arange(1242) % 256
    cv2.imwrite(str(tmp_path / 'raw/0.png'), picture)
    depth = np.full((375, 1242), 2 * 256, np.uint16)
    depth[:, 621:] *= 2
    cv2.imwrite(str(tmp_path / 'depth/0.png'), depth)
    (tmp_path / 'splits/eigen_test.txt').write_text('0.png 0.png 721.5\n\n1.png None 721.5\n')
    return tmp_path


def read_kitti(folder):
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/kitti_depth.py')
    init_default_scope('mmseg')
    return DATASETS.build(dict(cfg.val_dataloader.dataset, data_root=str(folder)))


def test_kitti_is_read_as_its_config_says(kitti):
    dataset = read_kitti(kitti)
    assert len(dataset) == 1
    item = dataset[0]
    image, sample = item['inputs'], item['data_samples']
    assert image.shape == (3, 352, 1216) and sample.ori_shape == sample.img_shape == (352, 1216)
    assert image[0, -1].tolist() == [(13 + i) % 256 for i in range(1216)], 'the bottom, in the middle'
    assert (sample.gt_depth_map.data[0, :, :608] == 2).all() and (sample.gt_depth_map.data[0, :, 608:] == 4).all()


@pytest.mark.parametrize('text, words', [('0.png\n', 'line 1 must name'), ('0.png None\n', 'names no picture')])
def test_a_list_that_names_no_pairs(kitti, text, words):
    (kitti / 'splits/eigen_test.txt').write_text(text)
    with pytest.raises(ValueError, match=f'eigen_test.txt: {words}'):
        read_kitti(kitti)


def test_a_picture_smaller_than_its_crop():
    with pytest.raises(ValueError, match=r'a.png: the picture is 4×9, smaller than BottomCrop.size=\(5, 9\)'):
        BottomCrop((5, 9))(dict(img=np.zeros((4, 9, 3)), img_path='a.png'))
    for size in (352, (352,), (352, 0)):
        with pytest.raises(ValueError, match='BottomCrop.size='):
            BottomCrop(size)


@pytest.mark.parametrize(
    'crop, edges',
    [('garg_crop', (143, 349, 43, 1172)), ('eigen_crop', (117, 321, 43, 1172)), (None, (0, 352, 0, 1216))],
)
def test_what_kitti_scores(crop, edges):
    """The errors are those inside of the crop, where something was measured within the limits."""
    metric = DepthMetric(crop_type=crop, depth_metrics=['rmse', 'd1'], max_depth_eval=80.0)
    top, bottom, left, right = edges
    truth, found = torch.full((352, 1216), 10.0), torch.full((352, 1216), 50.0)
    found[top:bottom, left:right] = 11.0
    truth[top, left], truth[top, left + 1] = 0, 81
    sample = {'pred_depth_map': dict(data=found[None]), 'gt_depth_map': dict(data=truth[None])}
    metric.process({}, [sample])
    assert metric.compute_metrics(metric.results) == {'rmse': pytest.approx(1), 'd1': 1}


@pytest.mark.parametrize(
    'kwargs, words', [(dict(crop_type='crop'), 'garg_crop'), (dict(depth_metrics=['a']), 'abs_rel')]
)
def test_metrics_that_there_are_none(kwargs, words):
    with pytest.raises(ValueError, match=words):
        DepthMetric(**kwargs)
