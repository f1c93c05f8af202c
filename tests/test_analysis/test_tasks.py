"""What models are asked, how two answers are compared, and metrics that are better lower, from tool to figure."""

import csv
import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.structures import InstanceData
from torch import nn

from mmtoken.analysis.loading import build_model, class_colors, quiet_log, read_config
from mmtoken.analysis.rivals import best_at, judge_rows, say, smaller_size
from mmtoken.analysis.synthetic import synthetic_samples
from mmtoken.analysis.tasks import TASKS, Metric, task_of
from mmtoken.registry import METRICS

RMSE, MIOU = Metric.named('RMSE'), Metric.named('mIoU')


# ------------------------------------------------------------------------------------------------------------- tasks
@pytest.mark.parametrize(
    'path, task',
    [
        ('mmseg::segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py', 'segment'),
        ('mmseg::vpd/vpd_sd_4xb8-25k_nyu-480x480.py', 'depth'),
        ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', 'detect'),
    ],
)
def test_the_task_of_a_model_of_upstream(path, task):
    from mmengine.registry import MODELS, init_default_scope

    from mmtoken.analysis.loading import read_config

    cfg = read_config(path)
    init_default_scope(path.split(':')[0])
    kind = MODELS.get(f'{path.split(":")[0]}.{cfg.model.type}')
    assert task_of(kind.__new__(kind)).name == task


def test_a_model_may_name_its_task():
    model = nn.Conv2d(3, 3, 1)
    assert task_of(model).name == 'features'
    for name in TASKS:
        model.task = name
        assert task_of(model) is TASKS[name]
    model.task = 'nothing that is known'
    assert task_of(model).name == 'features'


class Regressor(nn.Module):
    task = 'mesh'

    def forward(self, inputs, data_samples=None, mode='loss'):
        assert mode == 'tensor'
        return dict(vertices=inputs.mean() + torch.zeros(2, 5, 3))


def test_a_mesh_model_gives_its_plain_output():
    model = Regressor()
    out = task_of(model).run(model)(torch.ones(1, 3, 4, 4))
    assert out['vertices'].shape == (2, 5, 3)


def boxes(corners, labels, scores):
    found = InstanceData(bboxes=torch.tensor(corners).float(), labels=torch.tensor(labels), scores=torch.tensor(scores))
    return [SimpleNamespace(pred_instances=found)]


def test_label_agreement():
    segment, dense = TASKS['segment'], torch.tensor([[[[3.0, 1.0]], [[1.0, 3.0]]]])
    assert segment.compare(dense, dense) == {'label agreement': 1}
    assert segment.compare(dense, dense.new_tensor([[[[3.0, 1.0]], [[1.0, 0.0]]]])) == {'label agreement': 0.5}
    one = torch.tensor([[[[3.0, -1.0]]]])  # one map holds two classes
    assert segment.compare(one, one) == {'label agreement': 1, 'IoU': 1, 'correlation': pytest.approx(1)}
    assert segment.compare(one, -one) == {'label agreement': 0, 'IoU': 0, 'correlation': pytest.approx(-1)}
    nothing = -one.abs()
    assert segment.compare(nothing, nothing - 1)['IoU'] == 1 and segment.compare(one, one.abs())['IoU'] == 0.5


@pytest.mark.parametrize(
    'size, crops', [((32, 48), 1), ((32, 80), 3), ((33, 48), 2), ((64, 96), 12), ((20, 20), 1), ((32, 64), 2)]
)
def test_crops_are_those_that_mmseg_cuts(size, crops):
    from mmseg.models import EncoderDecoder

    seen = []
    for mode, times in (('slide', 1), ('slide_flip', 2), ('whole', None)):
        model = SimpleNamespace(
            test_cfg=Config(dict(mode=mode, crop_size=(32, 48), stride=(16, 16))),
            out_channels=1,
            encode_decode=lambda x, metas: seen.append(x) or x[:, :1],
        )
        assert TASKS['depth'].crops(model, size) == (crops * times if times else 1)
        if mode == 'slide':
            assert TASKS['segment'].crops(model, size) == crops
            EncoderDecoder.slide_inference(model, torch.zeros(1, 3, *size), [{}])
            assert len(seen) == crops


def test_labels_to_train_on(monkeypatch):
    model = nn.Conv2d(3, 3, 1)
    for task, field in (('segment', 'gt_sem_seg'), ('depth', 'gt_depth_map'), ('detect', 'gt_instances')):
        model.task, model.num_classes, model.decode_head = task, 3, nn.Module()
        model.decode_head.num_classes = 3
        samples = synthetic_samples(model, 2, (20, 30))
        assert len(samples) == 2 and all(field in sample for sample in samples)
    model.task = 'features'
    with pytest.raises(
        ValueError, match='--train knows labels to segment, detect, depth, mesh, but Conv2d is there for features'
    ):
        synthetic_samples(model, 2, (20, 30))


def test_depth_and_features_and_vertices():
    depth = torch.tensor([[[[1.0, 4.0]]]])
    assert TASKS['depth'].compare(depth, depth + 1) == {'depth relative difference': pytest.approx((1 + 0.25) / 2)}
    features = [torch.ones(1, 2, 2), torch.full((3,), 2.0)]
    found = TASKS['features'].compare(features, [features[0], features[1] * 1.1])
    assert found == {'relative difference': pytest.approx(0.1)}
    persons = torch.stack([torch.zeros(4, 3), torch.ones(4, 3)])
    moved = persons.flip(0) + torch.tensor([0, 0, 0.001])  # in another order, 1 mm away
    assert TASKS['mesh'].compare(dict(vertices=persons), dict(vertices=moved)) == {
        'vertex distance (mm)': pytest.approx(1, abs=1e-3)
    }


def test_boxes_match_once_each_with_the_same_label():
    detect, square = TASKS['detect'], [0, 0, 10, 10]
    dense = boxes([square, [20, 20, 30, 30], [50, 50, 60, 60]], [0, 1, 1], [0.9, 0.8, 0.1])  # the last is not sure
    assert detect.compare(dense, dense) == {'box match': 1}
    assert detect.compare(dense, boxes([square, square], [0, 0], [0.9, 0.8])) == {'box match': 0.5}
    assert detect.compare(dense, boxes([square, [20, 20, 30, 30]], [1, 1], [0.9, 0.8])) == {'box match': 0.5}
    assert detect.compare(dense, boxes([square, [20, 20, 30, 31]], [0, 1], [0.9, 0.8])) == {'box match': 1}
    nothing = boxes(torch.zeros(0, 4).tolist(), [], [])
    nothing[0].pred_instances.bboxes = torch.zeros(0, 4)
    assert detect.compare(nothing, nothing) == {'box match': 1} and detect.compare(dense, nothing) == {'box match': 0}


# ----------------------------------------------------------------------------------------------------------- metrics
@pytest.mark.parametrize(
    'name, lower',
    [(name, True) for name in ('RMSE', 'AbsRel', 'SqRel', 'RMSElog', 'SILog', 'MPJPE', 'PA-MPJPE', 'MVE', 'loss')]
    + [(name, True) for name in ('rmse_log', 'abs_rel', 'depth/silog', 'log10', 'val/loss_ce', 'decode.loss', 'PVE')]
    + [(name, False) for name in ('mIoU', 'aAcc', 'coco/bbox_mAP', 'mDice', 'd1', 'IoU.glossy', 'PQ', 'unheard of')],
)
def test_the_direction_of_a_metric(name, lower):
    assert Metric.named(name).lower == lower
    assert Metric.named(name, True).lower and not Metric.named(name, False).lower
    assert Metric.named(name).loss(3, 2) == (1 if lower else -1)


# ------------------------------------------------------------------------------------------------------------ rivals
def test_sizes_are_whole_patches():
    assert smaller_size((504, 672), 0.5, 14) == (252, 336) and smaller_size((10, 40), 0.1, 14) == (14, 14)


@pytest.mark.parametrize('metric, sign', [(MIOU, 1), (RMSE, -1)])
def test_the_curve_is_straight_between_what_anybody_would_take(metric, sign):
    points = [(4, sign * 50), (1, sign * 40), (3, sign * 39), (2, sign * 44)]  # the one at 3 is slower and worse
    at = [best_at(time, points, metric) for time in (0.9, 1, 1.5, 2, 3, 4, 9)]
    assert at == [None, *(sign * value for value in (40, 42, 44, 47, 50, 50))]


def row(kind, speedup, value, spread=0.0):
    ends = dict(ratio=speedup, low=speedup * (1 - spread), high=speedup * (1 + spread))
    return dict(kind=kind, speedup=ends, metrics=dict(mIoU=value, RMSE=-value))


@pytest.mark.parametrize('metric', [MIOU, RMSE])
@pytest.mark.parametrize(
    'speedup, value, spread, word, margin',
    [
        (1.6, 47, 0, 'above', 47 - 45),  # between the dense model and the input of half the time
        (1.6, 43, 0, 'below', 43 - 45),
        (1.6, 46, 0.2, 'level', 46 - 45),  # above, but the time is not known that well
        (1.6, 49, 0.1, 'above', 49 - 45),
        (2.5, 47, 0, 'faster', None),
        (0.5, 47, 0, 'below', 47 - 50),  # slower than the dense model
    ],
)
def test_the_verdict_is_at_the_same_time(metric, speedup, value, spread, word, margin):
    rows = [row('dense', 1, 50), row('smaller input', 2, 40 + 0.0), row('reduced', speedup, value, spread)]
    if speedup == 1.6:
        rows[1]['metrics'] = dict(mIoU=130 / 3, RMSE=-130 / 3)  # 45 at 1 / 1.6
    judge_rows(rows, metric)
    found = rows[2]['verdict']
    assert [rows[0]['verdict'], rows[1]['verdict']] == [None, None] and found['verdict'] == word
    assert found['margin'] == (None if margin is None else pytest.approx(margin))
    if margin is not None:
        assert found['low'] <= found['margin'] <= found['high'] and (spread > 0) == (found['low'] < found['high'])
    assert 'smaller input' in say(found, metric)


@pytest.mark.parametrize('metric', [MIOU, RMSE])
def test_people_who_were_not_found_are_no_rival(metric):
    """An error over pairs is nan where there are none, as on the smallest picture."""
    nan = float('nan')
    rows = [row('dense', 1, 50), row('smaller input', 2, 45), row('smaller input', 4, nan)]
    rows += [row('reduced', speedup, value) for speedup, value in ((2, 46), (3, 46), (2, nan))]
    judge_rows(rows, metric)
    assert [one['verdict']['verdict'] for one in rows[3:]] == ['above', 'faster', 'undefined']
    assert rows[3]['verdict']['margin'] == 1 and metric.name in say(rows[5]['verdict'], metric)
    rows = [row('dense', 1, nan), row('smaller input', 2, nan), row('reduced', 2, 46)]
    judge_rows(rows, metric)
    assert rows[2]['verdict']['verdict'] == 'undefined'


@pytest.mark.parametrize('value', [0, 50])
def test_a_metric_that_is_the_same_for_all_says_nothing(value):
    rows = [row('dense', 1, value), row('smaller input', 2, value), row('reduced', 1.5, value)]
    rows += [row('reduced', 1.5, value + 1), row('reduced', 4, value)]
    judge_rows(rows, MIOU)
    assert [one['verdict']['verdict'] for one in rows[2:]] == ['silent', 'above', 'silent']
    assert rows[2]['verdict']['margin'] is None and say(rows[2]['verdict'], MIOU).endswith('so it says nothing')


def test_without_a_rival_there_is_no_verdict():
    rows = [row('dense', 1, 50), row('reduced', 2, 49)]
    judge_rows(rows, MIOU)
    assert [one['verdict'] for one in rows] == [None, None]


# ---------------------------------------------------------------------------- a metric that is better lower
class Mistakes(BaseMetric):
    """Root mean square of the wrong labels' distance."""

    def __init__(self, name='RMSE', **_):
        super().__init__(collect_device='cpu')
        self.name = name

    def process(self, data_batch, data_samples):
        for sample in data_samples:
            label = sample['gt_sem_seg']['data']
            self.results.append(float(((sample['pred_sem_seg']['data'] - label).float() ** 2).mean()))

    def compute_metrics(self, results):
        return {self.name: float(np.mean(results)) ** 0.5}


@pytest.fixture
def mistakes(monkeypatch, plain_dumps, steady):
    METRICS.import_from_location()
    monkeypatch.setitem(METRICS.module_dict, 'Mistakes', Mistakes)


def read(folder, file='tradeoff.json'):
    return json.loads((folder / file).read_text())


@pytest.mark.parametrize('name, flags', [('RMSE', []), ('wrongness', ['--lower-is-better'])])
def test_an_error_is_minimised(town, call, tmp_path, mistakes, name, flags):
    flags = [town / 'pooled.py', town / 'weights.pth', '--rounds', 2, '--work-dir', tmp_path, '--metric', name, *flags]
    flags += ['--cfg-options', 'val_evaluator.type=mmtoken.Mistakes', f'val_evaluator.name={name}']
    settings = ['reducer.layer=1,2', 'reducer.grid=0.35,0.65,0.85', 'reducer.proportional=False']
    call('tradeoff', *flags, *(word for text in settings for word in ('--sweep', text)))
    out = read(tmp_path)
    assert (out['metric'], out['lower_is_better']) == (name, True)
    kinds = [one['kind'] for one in out['rows']]
    assert kinds == ['dense'] + ['smaller input'] * 3 + ['reduced'] * 6
    dense, everything = out['rows'][0], out['rows'][4:]

    def loss(one):
        return one['metrics'][name] - dense['metrics'][name]

    for one in everything:
        verdict = one['verdict']
        if verdict['verdict'] != 'faster':
            assert verdict['margin'] == pytest.approx(verdict['rival'] - one['metrics'][name])
            assert verdict['verdict'] == ('above' if verdict['margin'] > 0 else 'below')
    with (tmp_path / 'tradeoff.csv').open() as file:
        for line, one in zip(csv.DictReader(file), out['rows'], strict=True):
            assert float(line['worse by']) == float(line['delta']) == pytest.approx(loss(one), abs=1e-3)
            assert line['verdict'] == (one['verdict'] or dict(verdict=''))['verdict']

    losses = sorted(map(loss, everything))
    assert losses[0] < losses[-1]
    limit = losses[3]
    for goal, met, better in [
        (['--target-speedup', 1.25], lambda one: one['speedup']['ratio'] >= 1.25, lambda one: -loss(one)),
        (['--max-drop', limit], lambda one: loss(one) <= limit + 1e-9, lambda one: one['speedup']['ratio']),
    ]:
        reaching = [one for one in everything if met(one)]
        assert 0 < len(reaching) < len(everything)
        search = [word for text in settings for word in ('--search', text)]
        call('tradeoff', *flags[:-3], *goal, '--trials', 20, *search, *flags[-3:])
        found = read(tmp_path, 'found.json')['rows'][1]
        assert better(found) == pytest.approx(max(map(better, reaching))) and met(found)


def test_better_is_up_in_the_figure():
    from mmtoken.analysis import figures

    rows = [dict(row('dense', 1, 50), name='dense', macs=1e9), dict(row('reduced', 2, 49), name='a', macs=5e8)]
    rows[1]['values'] = {'reducer.r': 1}
    for metric in (MIOU, RMSE):
        for axes in figures.tradeoff_figure(rows, metric, 'title').axes:
            height = axes.transData.transform([(1, one['metrics'][metric.name]) for one in rows])[:, 1]
            assert height[0] > height[1]  # the dense model is the better one
        assert metric.direction in figures.tradeoff_figure(rows, metric, 'title').axes[0].get_ylabel()


# ------------------------------------------------------------------------------------------------------------ classes
ADE = dict(type='ADE20KDataset', data_root='nowhere')


@pytest.mark.parametrize(
    'dataset',
    [
        ADE,
        dict(ADE, type='mmseg.ADE20KDataset'),
        dict(type='RepeatDataset', times=2, dataset=ADE),
        dict(type='ConcatDataset', datasets=[ADE, ADE]),
    ],
)
def test_classes_of_a_dataset_of_upstream(dataset):
    cfg = Config(dict(default_scope='mmseg', test_dataloader=dict(dataset=dataset)))
    classes, palette = class_colors(cfg, None, 150)
    assert classes[:2] == ['wall', 'building'] and palette[0] == [120, 120, 120]
    assert class_colors(cfg, None, 7)[0] == list('0123456')  # of another number of classes


@pytest.mark.parametrize('keys', [('classes', 'palette'), ('CLASSES', 'PALETTE')])
def test_the_checkpoint_knows_its_classes_best(tmp_path, keys):
    meta = dict(zip(keys, [('cat', 'dog'), [[1, 2, 3], [4, 5, 6]]]))
    torch.save(dict(state_dict={}, meta=dict(dataset_meta=meta)), tmp_path / 'a.pth')
    torch.save(dict(state_dict={}), tmp_path / 'b.pth')
    given = dict(classes=('tree', 'car'), palette=[[9, 9, 9], [8, 8, 8]])
    cfg = Config(dict(default_scope='mmseg', test_dataloader=dict(dataset=dict(ADE, metainfo=given))))
    assert class_colors(cfg, str(tmp_path / 'a.pth'), 2) == (['cat', 'dog'], [[1, 2, 3], [4, 5, 6]])
    assert class_colors(cfg, str(tmp_path / 'b.pth'), 2) == (['tree', 'car'], [[9, 9, 9], [8, 8, 8]])


def test_small_numbers_have_digits_enough():
    found = dict(verdict='above', rival=0.021, margin=0.0012, low=0.0004, high=0.0019)
    assert '+0.0012 (+0.0004 to +0.0019) mIoU' in say(found, MIOU)


def test_a_model_is_built_without_warnings_of_upstream(town, recwarn):
    cfg = read_config(town / 'dense.py')
    cfg.model.decode_head.num_classes = 2  # which mmseg would have as one channel, and says so
    build_model(cfg)
    assert not [str(seen.message) for seen in recwarn if 'mmseg' in seen.filename]
    with quiet_log(), pytest.warns(UserWarning, match='ours'):
        warnings.warn('ours', stacklevel=1)
