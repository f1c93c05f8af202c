"""DRIVE: the converter and its base config, on pictures made here."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

import mmtoken  # noqa: F401
from mmtoken.registry import DATASETS

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location('drive_converter', ROOT / 'tools/dataset_converters/drive.py')
converter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(converter)


@pytest.fixture
def challenge(tmp_path) -> Path:
    """Two training and three test pictures in the layout of the challenge; a vessel crosses a round field of view."""
    folder = tmp_path / 'DRIVE'
    for split, numbers in (('training', (21, 22)), ('test', (1, 2, 4))):
        for part in ('images', '1st_manual', 'mask'):
            (folder / split / part).mkdir(parents=True)
        for number in numbers:
            cv2.imwrite(str(folder / split / f'images/{number:02}_{split}.tif'), np.full((12, 10, 3), 90, np.uint8))
            vessels = np.zeros((12, 10), np.uint8)
            vessels[6] = 255
            field = np.zeros((12, 10), np.uint8)
            field[2:10, 2:8] = 255
            Image.fromarray(vessels).save(folder / split / f'1st_manual/{number:02}_manual1.gif')
            Image.fromarray(field).save(folder / split / f'mask/{number:02}_{split}_mask.gif')
    return folder


@pytest.fixture
def drive(challenge, tmp_path) -> Path:
    converter.main([str(challenge), str(tmp_path / 'data')])
    return tmp_path / 'data'


def test_converter_writes_the_layout(drive):
    files = sorted(str(p.relative_to(drive)) for p in drive.rglob('*.*'))
    names = ('train/21', 'train/22', 'val/02', 'val/04')  # even test pictures
    assert files == sorted([f'images/{n}.jpg' for n in names] + [f'labels/{n}.png' for n in names])
    label = cv2.imread(str(drive / 'labels/val/02.png'), cv2.IMREAD_UNCHANGED)
    expected = np.full((12, 10), 255)
    expected[2:10, 2:8] = 0
    expected[6, 2:8] = 1
    assert label.tolist() == expected.tolist()


def test_converter_links_to_its_own_layout(drive, tmp_path, capsys):
    converter.main([str(drive), str(tmp_path / 'deep/link')])
    assert (tmp_path / 'deep/link').resolve() == drive.resolve()
    assert 'train: 2 images' in capsys.readouterr().out
    converter.main([str(drive), str(drive)])  # in its place: checked only


def spoil_label(folder, value=2, shape=(12, 10)):
    cv2.imwrite(str(folder / 'labels/val/02.png'), np.full(shape, value, np.uint8))


@pytest.mark.parametrize(
    'spoil, words',
    [
        (spoil_label, ['02.png', 'id 2']),
        (lambda d: spoil_label(d, 0, (12, 11)), ['02.png', 'size']),
        (lambda d: (d / 'labels/val/02.png').unlink(), ['02.png']),
        (lambda d: [p.unlink() for p in (d / 'images/val').iterdir()], ['images/val']),
        (lambda d: (d.parent / 'link').mkdir(), ['link', 'remove']),
    ],
)
def test_converter_names_what_is_wrong_with_its_own_layout(drive, spoil, words):
    spoil(drive)
    refused([str(drive), str(drive.parent / 'link')], words)


@pytest.mark.parametrize(
    'spoil, words',
    [
        (lambda d: (d / 'test').rename(d / 'tests'), ['test', 'DRIVE']),
        (lambda d: (d / 'test/1st_manual/02_manual1.gif').unlink(), ['02_manual1.gif']),
        (lambda d: Image.new('L', (10, 11)).save(d / 'test/mask/02_test_mask.gif'), ['02_test.tif', 'sizes']),
        (lambda d: [p.unlink() for p in (d / 'training/images').iterdir()], ['training/images']),
    ],
)
def test_converter_names_what_is_wrong_with_the_challenge(challenge, tmp_path, spoil, words):
    spoil(challenge)
    refused([str(challenge), str(tmp_path / 'data')], words)


def refused(argv, words):
    with pytest.raises(SystemExit) as caught:
        converter.main(argv)
    message = str(caught.value)
    assert caught.value.code == 2
    assert '\n' not in message and all(word in message for word in words), message


@pytest.mark.parametrize('path', sorted((ROOT / 'configs/baselines').glob('*_drive-*.py')), ids=lambda p: p.stem)
def test_configs_give_whole_patches_and_labels_of_the_file(path, drive):
    from mmengine.registry import init_default_scope

    init_default_scope('mmseg')
    cfg = Config.fromfile(path)
    width, height = (int(side) for side in path.stem.rpartition('-')[2].split('x'))
    halved = 2 if 'coarse' in path.stem else 1
    size = (height // halved, width // halved)
    assert size[0] % 14 == size[1] % 14 == 0 and tuple(cfg.model.data_preprocessor.size) == size
    for name in ('train', 'val', 'test'):
        dataset = cfg[f'{name}_dataloader'].dataset
        dataset.data_root = str(drive)
        data = DATASETS.build(dict(dataset, _scope_='mmseg'))
        assert len(data) == 2 and data.metainfo['classes'] == ('background', 'vessel')
        sample = data[0]
        assert sample['inputs'].shape == (3, *size)
        label = sample['data_samples'].gt_sem_seg.data
        assert label.shape == (1, 12, 10) and label.unique().tolist() == [0, 1, 255]
