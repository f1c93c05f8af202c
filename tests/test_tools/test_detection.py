"""The tools on a detector of stock mmdet's config, with pictures of boxes that are made up here."""

import copy
import json
import pickle

import cv2
import numpy as np
import pytest
import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmtoken.datasets.coco import CheckedCOCO
from mmtoken.engine.detection import add_tta, check_detection
from mmtoken.engine.errors import UserError
from mmtoken.evaluation import CocoMetric

from .conftest import call, fork

CONFIG = """
_base_ = ['mmdet::_base_/models/{model}.py', 'mmdet::_base_/datasets/coco_{kind}.py',
          'mmtoken::_base_/default_runtime_det.py']
data_root = {data!r}
metainfo = dict(classes=('square', 'bar'))
model = dict(
    type='mmtoken.Token{name}',
    data_preprocessor=dict(pad_size_divisor=8),
    backbone=dict(_delete_=True, type='mmtoken.TokenDINOv2', arch=dict(embed_dims=16, num_layers=2, num_heads=2),
                  img_size=64, patch_size=8, fit='pad', reducer=dict(type='mmtoken.ToMe', r=4)),
    neck=dict(_delete_=True, type='mmtoken.SimpleFPN', in_channels=16, out_channels=8, scales=[1, 0.5], num_outs=2),
    {heads}
)
small = dict(type='Resize', scale=(64, 48))
load = dict(type='LoadAnnotations', with_bbox=True, with_mask={masks})
pack = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
steps = [dict(type='LoadImageFromFile'), load, small, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
data = dict(data_root=data_root, metainfo=metainfo, ann_file='train.json', data_prefix=dict(img='images'))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, batch_sampler=None,
                        sampler=dict(_delete_=True, type='InfiniteSampler'), dataset=dict(data, pipeline=steps))
val_dataloader = dict(num_workers=0, persistent_workers=False,
                      dataset=dict(data, pipeline=[dict(type='LoadImageFromFile'), small, load, pack]))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + '/train.json')
test_evaluator = val_evaluator
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(checkpoint=dict(interval=1), visualization=dict(interval=1))
custom_hooks = [dict(type='mmtoken.TokenStatsHook', interval=1)]
"""
RETINA = """bbox_head=dict(num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
                   anchor_generator=dict(strides=[8, 16], octave_base_scale=1)), test_cfg=dict(score_thr=0.0)"""
MASK = """rpn_head=dict(in_channels=8, feat_channels=8, anchor_generator=dict(strides=[8, 16], scales=[2])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8, featmap_strides=[8, 16]),
        mask_roi_extractor=dict(out_channels=8, featmap_strides=[8, 16]),
        bbox_head=dict(in_channels=8, fc_out_channels=8, num_classes=2),
        mask_head=dict(in_channels=8, conv_out_channels=8, num_convs=1, num_classes=2)),
    test_cfg=dict(rcnn=dict(score_thr=0.0))"""


@pytest.fixture(scope='module')
def boxes(tmp_path_factory):
    """A folder with four pictures of two boxes, their annotations, and configs of two detectors."""
    folder, rng = tmp_path_factory.mktemp('boxes'), np.random.default_rng(0)
    (folder / 'data/images').mkdir(parents=True)
    data = dict(images=[], annotations=[], categories=[dict(id=7, name='bar'), dict(id=3, name='square')])
    for i in range(4):
        picture = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
        for width, height, category in ((14, 14, 3), (30, 8, 7)):
            x, y = int(rng.integers(0, 64 - width)), int(rng.integers(0, 48 - height))
            picture[y : y + height, x : x + width] = (250, 120, 30)
            corners = [x, y, x + width, y, x + width, y + height, x, y + height]
            data['annotations'].append(
                dict(
                    id=len(data['annotations']) + 1,
                    image_id=i,
                    category_id=category,
                    bbox=[x, y, width, height],
                    area=width * height,
                    iscrowd=0,
                    segmentation=[corners],
                )
            )
        cv2.imwrite(str(folder / f'data/images/{i}.png'), picture)
        data['images'].append(dict(id=i, file_name=f'{i}.png', width=64, height=48))
    (folder / 'data/train.json').write_text(json.dumps(data))
    root = str(folder / 'data')
    for file, model, kind, name, heads, masks in (
        ('retina', 'retinanet_r50_fpn', 'detection', 'RetinaNet', RETINA, False),
        ('mask', 'mask-rcnn_r50_fpn', 'instance', 'MaskRCNN', MASK, True),
    ):
        text = CONFIG.format(data=root, model=model, kind=kind, name=name, heads=heads, masks=masks)
        (folder / f'{file}.py').write_text(text)
    return folder


def log_of(folder):
    return max(folder.glob('*/*.log')).read_text()


@pytest.mark.parametrize('model, metrics', [('retina', ['bbox_mAP']), ('mask', ['bbox_mAP', 'segm_mAP'])])
def test_trains_resumes_and_tests_as_mmdets_tools_do(boxes, model, metrics, monkeypatch):
    monkeypatch.chdir(boxes)
    options = ['--cfg-options', 'train_cfg.max_iters=1', 'train_cfg.val_interval=9']
    call('train', monkeypatch, f'{model}.py', '--work-dir', model, '--auto-scale-lr', *options)
    assert 'LR is set based on batch size of 4 and the current batch size is 2' in log_of(boxes / model)
    call('train', monkeypatch, f'{model}.py', '--work-dir', model, '--resume')
    log = log_of(boxes / model)
    assert 'iter: 1' in log and 'part of the patches that enters each block' in log
    assert all(f'coco/{metric}: ' in log for metric in metrics)
    flags = ['--out', f'{model}.pkl', '--show-dir', 'painted', '--tta']
    flags = flags[: 4 if model == 'mask' else 5]  # mmdet's test-time augmentation merges boxes only
    call('test', monkeypatch, f'{model}.py', f'{model}/iter_2.pth', '--work-dir', f'{model}-test', *flags)
    found = pickle.loads((boxes / f'{model}.pkl').read_bytes())
    assert len(found) == 4 and all(len(one['pred_instances']['bboxes']) for one in found)
    assert len(list((boxes / f'{model}-test').glob('*/painted/*.png'))) == 4


def test_only_boxes_are_merged(boxes):
    add_tta(Config.fromfile(boxes / 'retina.py'))
    with pytest.raises(UserError, match=r'--tta: [^\n]*merges boxes only, and model.roi_head.mask_head gives masks'):
        add_tta(Config.fromfile(boxes / 'mask.py'))


def test_pictures_that_are_not_run_are_not_scored(boxes):
    """mmdet's own metric looks for the objects of all that are in the file: 0.5 here."""
    metric = CocoMetric(ann_file=str(boxes / 'data/train.json'), metric='bbox')
    metric.dataset_meta = dict(classes=('square', 'bar'))
    truth = json.loads((boxes / 'data/train.json').read_text())['annotations']
    for image in (1, 3):
        mine = [one for one in truth if one['image_id'] == image]
        corners = torch.tensor([one['bbox'] for one in mine]).float()
        corners[:, 2:] += corners[:, :2]
        labels = torch.tensor([{7: 0, 3: 1}[one['category_id']] for one in mine])  # as they stand in the file
        found = dict(bboxes=corners, scores=torch.ones(len(mine)), labels=labels)
        metric.process({}, [dict(img_id=image, ori_shape=(48, 64), pred_instances=found)])
    assert metric.evaluate(size=2)['coco/bbox_mAP'] == 1.0


@pytest.mark.parametrize('scores', [[], [0.9]])
def test_a_model_that_finds_nothing_has_a_precision_of_0(boxes, scores):
    """mmdet's own metric gives none then. One box elsewhere has the same, and was scored before."""
    metric = CocoMetric(ann_file=str(boxes / 'data/train.json'), metric=['bbox', 'segm'])
    metric.dataset_meta = dict(classes=('square', 'bar'))
    number = len(scores)
    found = dict(bboxes=torch.tensor([[0, 0, 1, 1.0]])[:number], scores=torch.tensor(scores))
    found |= dict(labels=torch.zeros(number).long(), masks=torch.zeros(number, 48, 64, dtype=torch.bool))
    for image in (1, 3):
        metric.process({}, [dict(img_id=image, ori_shape=(48, 64), pred_instances=found)])
    scored = metric.evaluate(size=2)
    assert scored['coco/bbox_mAP'] == scored['coco/segm_mAP'] == 0.0


def test_the_tools_score_what_they_run(boxes):
    cfg = Config.fromfile(boxes / 'retina.py')
    check_detection(cfg, ['val'])
    assert cfg.val_evaluator.type == 'mmtoken.CocoMetric' and cfg.val_dataloader.dataset.type == 'mmtoken.CocoDataset'


def test_two_processes_train_and_test_as_one_does(boxes):
    work = 'two'
    done = fork(boxes, 'train', 'mask.py', '--work-dir', work, processes=2, CUDA_VISIBLE_DEVICES='')
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'GPU number: 2' in log_of(boxes / work)
    results = []
    for processes in (1, 2):
        folder, file = f'{work}-test{processes}', f'{processes}.pkl'
        argv = ['mask.py', f'{work}/iter_2.pth', '--work-dir', folder, '--out', file]
        done = fork(boxes, 'test', *argv, processes=processes, CUDA_VISIBLE_DEVICES='')
        assert done.returncode == 0, done.stderr[-3000:]
        found = pickle.loads((boxes / file).read_bytes())
        results.append([(one['img_id'], one['pred_instances']['scores'].tolist()) for one in found])
    assert results[0] == results[1]


def spoilt(kind):
    def spoil(data):
        one = data['annotations'][1]
        match kind:
            case 'list':
                return []
            case 'no categories':
                del data['categories']
            case 'class':
                data['categories'][0]['name'] = 'stick'
            case 'box':
                one['bbox'] = [1, 2, 3]
            case 'nan':
                one['bbox'] = [1, 2, 3, float('nan')]
            case 'outside':
                for each in data['annotations']:
                    each['bbox'][0] += 64
            case 'area':
                del one['area']
            case 'image':
                one['image_id'] = 99
            case 'category':
                one['category_id'] = 5
            case 'mask':
                del one['segmentation']
            case 'empty':
                data['annotations'] = []
        return data

    return spoil


FAULTS = [
    ('list', 'is no COCO annotation file'),
    ('no categories', "it has no list 'categories'"),
    ('class', "has no class 'bar' of the dataset, but 'stick', 'square'; set metainfo"),
    ('box', r'annotation 2 has bbox=\[1, 2, 3\]; give \[x, y, width, height\]'),
    ('nan', r'annotation 2 has bbox=\[1, 2, 3, nan\]'),
    ('outside', r'8 of 8 boxes lie outside of their pictures; bbox is \[x, y, width, height\]'),
    ('area', 'annotation 2 has no area'),
    ('image', 'annotation 2 has image_id=99, which is not listed'),
    ('category', 'annotation 2 has category_id=5, which is not listed'),
    ('mask', 'image 0 has objects without a segmentation, which with_mask=True of LoadAnnotations needs'),
    ('empty', 'of 4 pictures none is left; see filter_cfg'),
]


@pytest.mark.parametrize('kind, words', FAULTS)
def test_bad_annotations(boxes, tmp_path, kind, words):
    data = json.loads((boxes / 'data/train.json').read_text())
    (tmp_path / 'bad.json').write_text(json.dumps(spoilt(kind)(data)))
    cfg = Config.fromfile(boxes / 'mask.py').train_dataloader.dataset
    cfg.update(type='mmtoken.CocoDataset', ann_file=str(tmp_path / 'bad.json'))
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmdet'), pytest.raises(ValueError, match=words) as error:
        DATASETS.build(cfg)
    assert '\n' not in str(error.value) and str(tmp_path / 'bad.json') in str(error.value)


def test_some_boxes_outside_are_left_out_with_a_line(boxes, tmp_path, monkeypatch):
    data = json.loads((boxes / 'data/train.json').read_text())
    data['annotations'][0]['bbox'] = [-20, 0, 20, 10]
    (tmp_path / 'some.json').write_text(json.dumps(data))
    lines = []
    monkeypatch.setattr('mmtoken.datasets.coco.print_log', lambda line, *args: lines.append(line))
    CheckedCOCO(str(tmp_path / 'some.json'))
    assert len(lines) == 1 and '1 of 8 boxes lie outside of their pictures and are left out' in lines[0]
    (boxes / 'data/broken.json').write_text('{"images": [')
    with pytest.raises(ValueError, match='broken.json: is no COCO annotation file'):
        CheckedCOCO(str(boxes / 'data/broken.json'))


@pytest.mark.parametrize('tool, options, words', [
    ('train', ['model.bbox_head.num_classes=80'], ['model.bbox_head.num_classes=80', '2 classes', 'metainfo']),
    ('train', ['train_dataloader.dataset.ann_file=no.json'], ['train_dataloader.dataset.ann_file', 'no.json']),
    ('test', ['test_evaluator.ann_file=no.json'], ['test_evaluator.ann_file: no such file: no.json']),
    ('train', ['auto_scale_lr.base_batch_size=0'], ['--auto-scale-lr needs auto_scale_lr']),
    ('test', [], ['--out boxes.json', '.pkl']),
])  # fmt: skip
def test_mistakes_are_one_line(boxes, tool, options, words, monkeypatch, capsys):
    monkeypatch.chdir(boxes)
    flags = dict(train=['--auto-scale-lr'], test=['no.pth', '--out', 'boxes.pkl' if options else 'boxes.json'])[tool]
    argv = ['retina.py', *flags, '--work-dir', 'bad', *(['--cfg-options', *options] if options else [])]
    with pytest.raises(SystemExit) as caught:
        call(tool, monkeypatch, *argv)
    assert caught.value.code == 2 and all(word in str(caught.value) for word in words), str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_config_of_mmseg_is_left_alone():
    from mmtoken.engine.detection import check_detection

    cfg = Config(
        dict(default_scope='mmseg', model=dict(bbox_head=dict(num_classes=9)), val_evaluator=dict(ann_file=''))
    )
    before = copy.deepcopy(cfg.to_dict())
    check_detection(cfg, ['val'])
    assert cfg.to_dict() == before


def test_analysis_tools(boxes, tmp_path, monkeypatch, capsys):
    """Metrics are AP, the picture shows boxes beside the dense model's, costs go through to the boxes."""
    monkeypatch.chdir(boxes)
    if not (boxes / 'retina/iter_2.pth').exists():
        call('train', monkeypatch, 'retina.py', '--work-dir', 'retina')
    files = ['retina.py', 'retina/iter_2.pth']
    call('analysis_tools/vis_tokens', monkeypatch, *files, 'data/images/0.png', '--out', tmp_path / 'tokens.png')
    said = capsys.readouterr().out
    assert 'tokens in each block: 44, 40' in said and 'box match with the dense model' in said
    assert cv2.imread(str(tmp_path / 'tokens.png')).shape[0] > 200
    argv = ['--sweep', 'reducer.r=4,8', '--smaller-input', '0.5', '--metric', 'coco/bbox_mAP', '--pictures', '1']
    call('analysis_tools/tradeoff', monkeypatch, *files, *argv, '--rounds', '1', '--work-dir', tmp_path / 'curve')
    rows = json.loads((tmp_path / 'curve/tradeoff.json').read_text())['rows']
    assert [row['name'] for row in rows] == ['dense', 'input ×0.5', 'r=4', 'r=8']
    assert all({'coco/bbox_mAP', 'coco/bbox_mAP_s'} <= set(row['metrics']) and row['images'] == 4 for row in rows)
    assert rows[3]['macs'] < rows[2]['macs'] < rows[0]['macs']
    call('analysis_tools/get_flops', monkeypatch, 'retina.py', '--shape', '--json', tmp_path / 'flops.json')
    assert json.loads((tmp_path / 'flops.json').read_text())['macs_mean'] == rows[2]['macs']
