"""Label maps of COCO's super-categories, on panoptic maps made here."""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmtoken  # noqa: F401
from mmtoken.registry import DATASETS

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location('converter', ROOT / 'tools/dataset_converters/coco_supercategories.py')
converter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(converter)

CATEGORIES = [(1, 'person', 'person'), (2, 'bicycle', 'vehicle'), (3, 'car', 'vehicle'), (92, 'banner', 'textile')]
#: A person, a car, what belongs to nothing, a crowd of bicycles, a banner; the last two have ids above a byte.
IDS = np.array([[7, 300, 0], [7, 8, 70000]])
SEGMENTS = [dict(id=7, category_id=1), dict(id=300, category_id=3), dict(id=8, category_id=2, iscrowd=1)]
SEGMENTS.append(dict(id=70000, category_id=92, iscrowd=0))
LABELS = [[0, 1, 255], [0, 255, 2]]


@pytest.fixture(params=['', '2017'])
def coco(tmp_path, request):
    folder, end = tmp_path / 'coco', request.param
    colours = np.stack([IDS // 65536, IDS // 256 % 256, IDS % 256], 2).astype(np.uint8)  # blue, green, red
    for split in ('train', 'val'):
        (folder / f'annotations/panoptic_{split}{end}').mkdir(parents=True)
        (folder / f'{split}{end}').mkdir()
        cv2.imwrite(str(folder / f'annotations/panoptic_{split}{end}/000.png'), colours)
        cv2.imwrite(str(folder / f'{split}{end}/000.jpg'), np.zeros((2, 3, 3), np.uint8))
        categories = [dict(id=i, name=name, supercategory=kind) for i, name, kind in CATEGORIES]
        annotations = [dict(file_name='000.png', segments_info=SEGMENTS)]
        text = json.dumps(dict(categories=categories, annotations=annotations))
        (folder / f'annotations/panoptic_{split}{end}.json').write_text(text)
    return folder


def test_labels_are_what_the_config_reads(coco, tmp_path, capsys):
    for _ in range(2):  # again, over its own output
        converter.main([str(coco), str(tmp_path / 'out')])
    assert 'val: panoptic of 1 pictures, 3 classes' in capsys.readouterr().out
    label = cv2.imread(str(tmp_path / 'out/labels/val/000.png'), cv2.IMREAD_UNCHANGED)
    assert label.tolist() == LABELS and label.dtype == np.uint8

    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/minicoco_semantic.py')
    init_default_scope('mmseg')
    dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, data_root=str(tmp_path / 'out')))
    assert len(dataset) == 1 and len(dataset.metainfo['classes']) == 27 == len(set(dataset.metainfo['classes']))
    item = dataset[0]
    assert item['inputs'].shape == (3, 448, 448) and item['data_samples'].gt_sem_seg.data[0].tolist() == LABELS


@pytest.mark.parametrize('end', ['', '2017'])
def test_instances_keep_all_but_their_categories(tmp_path, capsys, end):
    categories = [dict(id=i, name=name, supercategory=kind) for i, name, kind in CATEGORIES]
    objects = [dict(id=1, category_id=3, bbox=[0, 0, 2, 2]), dict(id=2, category_id=1), dict(id=3, category_id=2)]
    (tmp_path / 'annotations').mkdir()
    for split in ('train', 'val'):
        data = dict(images=[dict(id=9)], annotations=objects, categories=categories)
        (tmp_path / f'annotations/instances_{split}{end}.json').write_text(json.dumps(data))
    converter.main([str(tmp_path), str(tmp_path / 'out')])
    assert 'val: instances of 1 pictures, 3 classes' in capsys.readouterr().out
    out = json.loads((tmp_path / 'out/annotations/instances_val.json').read_text())
    names = {category['id']: category['name'] for category in out['categories']}
    assert [names[one['category_id']] for one in out['annotations']] == ['vehicle', 'person', 'vehicle']
    assert [{**one, 'category_id': 0} for one in out['annotations']] == [{**one, 'category_id': 0} for one in objects]
    assert out['images'] == [dict(id=9)]


def test_the_detectors_classes_are_the_first_of_them():
    """Those of instances, which COCO lists before the stuff, in the same order."""
    data = Config.fromfile(ROOT / 'configs/_base_/datasets/minicoco.py')
    all_of_them = Config.fromfile(ROOT / 'configs/_base_/datasets/minicoco_semantic.py').val_dataloader.dataset
    assert data.train_dataloader.dataset.metainfo.classes == all_of_them.metainfo.classes[:12]


def spoil_map(folder):
    for path in folder.glob('annotations/*/000.png'):
        cv2.imwrite(str(path), np.full((2, 3, 3), 9, np.uint8))


@pytest.mark.parametrize(
    'spoil, words',
    [
        (spoil_map, ['000.png holds the segment 592137']),
        (lambda folder: [path.write_bytes(b'') for path in folder.glob('annotations/*/000.png')], ['no readable']),
        (lambda folder: [path.unlink() for path in folder.glob('*/000.jpg')], ['no picture', '000.jpg']),
        (lambda folder: [path.unlink() for path in folder.glob('annotations/*.json')], ['panoptic_train.json']),
    ],
)
def test_what_is_wrong_is_named(coco, tmp_path, spoil, words):
    spoil(coco)
    with pytest.raises(SystemExit) as caught:
        converter.main([str(coco), str(tmp_path / 'out')])
    message = str(caught.value)
    assert caught.value.code == 2 and '\n' not in message and all(word in message for word in words), message
