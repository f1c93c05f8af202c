"""tradeoff.py: sweeps, competitors, going on after a stop, and what may be typed."""

import csv
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmtoken.analysis import segmentor_macs, variants
from mmtoken.analysis.loading import build_model, read_config
from mmtoken.analysis.tradeoff import Contender, Setting, Tradeoff
from mmtoken.analysis.variants import check_key, parse_space, parse_values, smaller_input, with_settings
from mmtoken.engine.errors import UserError

SIZE = (84, 112)


pytestmark = pytest.mark.usefixtures('plain_dumps')


def images(town):
    """The validation pictures as the configs prepare them, one by one, and their labels."""
    for path in sorted((town / 'data/images/val').glob('*.jpg')):
        pixels = torch.from_numpy(cv2.imread(str(path))[..., ::-1].copy()).permute(2, 0, 1).float()
        yield (pixels[None] - 128) / 64, cv2.imread(str(town / 'data/labels/val' / f'{path.stem}.png'), 0)


def reference(town, config, **options):
    """mIoU, in percent, and MACs of each picture, without mmengine's loop."""
    model = build_model(read_config(town / config, options), str(town / 'weights.pth'))
    shared, union, macs = np.zeros(11), np.zeros(11), []
    for image, label in images(town):
        with torch.no_grad():
            meta = dict(ori_shape=SIZE, img_shape=SIZE, pad_shape=SIZE, padding_size=[0] * 4)
            predicted = model.encode_decode(image, [meta]).argmax(1)[0].numpy()
        for c in range(11):
            shared[c] += ((predicted == c) & (label == c)).sum()
            union[c] += ((predicted == c) | (label == c)).sum()
        macs.append(segmentor_macs(model, image).total)
    return 100 * np.mean(shared[union > 0] / union[union > 0]), macs


def rows(folder, file='tradeoff.json'):
    return {row['name']: row for row in json.loads((folder / file).read_text())['rows']}


def test_a_sweep_with_competitors(town, call, tmp_path, capsys):
    call(
        'tradeoff',
        town / 'pooled.py',
        town / 'weights.pth',
        '--sweep',
        'reducer.layer=1,2',
        '--sweep',
        'reducer.grid=0.5,0.8',
        '--smaller-input',
        0.5,
        '--competitor',
        f'{town}/tome.py:{town}/weights.pth:other',
        '--rounds',
        3,
        '--work-dir',
        tmp_path,
    )
    got = rows(tmp_path)
    assert list(got) == ['dense', 'input ×0.5', 'other'] + [f'layer={i}, grid={g}' for i in (1, 2) for g in (0.5, 0.8)]
    changed = {'model.backbone.reducer.layer': 2, 'model.backbone.reducer.grid': 0.8}
    for name, config, options in [
        ('dense', 'dense.py', {}),
        ('other', 'tome.py', {}),
        ('layer=2, grid=0.8', 'pooled.py', changed),
    ]:
        score, macs = reference(town, config, **options)
        assert got[name]['metrics']['mIoU'] == pytest.approx(score, abs=0.006), name  # mmseg rounds to two digits
        assert got[name]['macs'] == np.mean(macs) and got[name]['images'] == 4
    dense = got['dense']
    assert dense['speedup'] == dict(ratio=1, low=1, high=1)
    for row in got.values():
        assert row['mac_ratio'] == pytest.approx(row['macs'] / dense['macs']) and len(row['seconds']) == 3
        ratios = np.array(row['dense_seconds']) / np.array(row['seconds'])
        assert row['speedup']['ratio'] == pytest.approx(np.median(ratios))
        assert row['efficiency'] == pytest.approx(row['speedup']['ratio'] * row['mac_ratio'])
        assert row['ms_per_image']['median'] == pytest.approx(1000 * np.median(row['seconds']))
    with (tmp_path / 'tradeoff.csv').open() as file:
        table = list(csv.DictReader(file))
    assert [line['name'] for line in table] == list(got) and {line['images'] for line in table} == {'4 images'}
    for line in table:
        assert float(line['delta']) == pytest.approx(
            got[line['name']]['metrics']['mIoU'] - dense['metrics']['mIoU'], abs=1e-3
        )
    assert cv2.imread(str(tmp_path / 'tradeoff.png')).shape == (840, 1950, 3)
    assert '4 of 6, layer=1, grid=0.8: mIoU' in capsys.readouterr().out


def test_a_size_that_the_model_refuses_is_left_out_unless_it_was_asked_for(town, call, tmp_path, capsys, monkeypatch):
    run = Contender.run

    def fixed(self, n):
        if self.inputs[n].shape[2:] == (42, 56):
            raise ValueError('this model runs at one size')
        return run(self, n)

    monkeypatch.setattr(Contender, 'run', fixed)
    flags = [town / 'pooled.py', town / 'weights.pth', '--sweep', 'reducer.grid=0.5', '--num', 1, '--rounds', 1]
    call('tradeoff', *flags, '--work-dir', tmp_path)
    got = rows(tmp_path)
    assert list(got) == ['dense', 'input ×0.8', 'input ×0.65', 'grid=0.5'] and got['grid=0.5']['verdict']
    printed = capsys.readouterr().out
    assert '3 of 4, input ×0.5: left out, the model does not run at this size (this model runs at' in printed
    with pytest.raises((SystemExit, ValueError)):
        call('tradeoff', *flags, '--work-dir', tmp_path, '--smaller-input', 0.5)


@pytest.mark.parametrize(
    'step, expected',
    [
        (dict(type='mmseg.Resize', scale=112), dict(scale=(56, 56))),
        (dict(type='ResizeShortestEdge', scale=(112, 84)), dict(scale=(56, 42))),
        (dict(type='Resize', scale_factor=1.5), dict(scale_factor=0.75)),
        (dict(type='Resize', scale_factor=(1.5, 1.0)), dict(scale_factor=(0.75, 0.5))),
        (None, dict(scale_factor=0.5)),
    ],
)
def test_pictures_shrink_however_the_pipeline_resizes(town, step, expected):
    cfg = read_config(town / 'dense.py')
    load, _, *rest = cfg.val_dataloader.dataset.pipeline
    cfg.val_dataloader.dataset.pipeline = [load, *([step] if step else []), *rest]
    small = smaller_input(cfg, 0.5, 14).val_dataloader.dataset.pipeline
    assert [one.type for one in small] == [
        load.type,
        (step or dict(type='Resize'))['type'],
        *(one.type for one in rest),
    ]
    assert {key: small[1][key] for key in expected} == expected


def test_smaller_input_is_whole_patches_and_scored_at_the_size_of_the_labels(town, tmp_path):
    cfg = smaller_input(read_config(town / 'dense.py'), 0.6, 14)
    contender = Contender(Setting('small', 'smaller input', cfg, str(town / 'weights.pth')), tmp_path, None, 2)
    assert [image.shape[2:] for image in contender.inputs] == [(56, 70)] * 2  # of 84×112
    assert contender.score()['mIoU'] > 0
    slide = with_settings(cfg, {})
    slide.model.test_cfg = dict(mode='slide', crop_size=(84, 84), stride=(56, 56))
    assert smaller_input(slide, 0.5, 14).model.test_cfg == dict(mode='slide', crop_size=(42, 42), stride=(28, 28))
    assert slide.model.test_cfg.crop_size == (84, 84)


def test_sliding_windows_are_counted_and_timed_whole(town, tmp_path):
    cfg = read_config(town / 'pooled.py', {'model.test_cfg': dict(mode='slide', crop_size=(84, 84), stride=(28, 28))})
    contender = Contender(Setting('slide', 'reduced', cfg, str(town / 'weights.pth')), tmp_path, None, 1)
    crop = segmentor_macs(contender.model, (84, 84)).total
    assert contender.macs().total == 2 * crop
    assert contender.run(0).shape == (1, 11, 84, 112)


def test_methods_that_look_at_the_picture_are_counted_on_several(town, tmp_path, loud):
    _, macs = reference(town, 'loud.py')
    assert len(set(macs)) > 1
    setting = Setting('loud', 'reduced', read_config(town / 'loud.py'), str(town / 'weights.pth'))
    assert Contender(setting, tmp_path, None, 4).macs().total == np.mean(macs)


def test_speed_ups_may_be_compared_with_macs_where_pictures_differ(town, tmp_path, loud, monkeypatch):
    from mmtoken.analysis import count_macs, latency

    monkeypatch.setattr(
        latency, '_sample_cpu', lambda call, args: count_macs(call.__self__.model, args, call=call).total / 1e6
    )
    monkeypatch.setattr(Contender, 'score', lambda self: dict(mIoU=1.0))
    dense, ours = (
        Setting(name, 'reduced', read_config(town / f'{name}.py'), str(town / 'weights.pth'))
        for name in ('dense', 'loud')
    )
    row = Tradeoff(tmp_path, dense, pictures=4, rounds=5).row(ours)
    assert len(set(row['seconds'])) > 1 and len(row['seconds']) == len(row['dense_seconds']) == 8
    assert row['efficiency'] == pytest.approx(1, abs=1e-12)


def test_a_quick_look_says_so_everywhere(town, call, tmp_path, capsys):
    call(
        'tradeoff',
        town / 'pooled.py',
        town / 'weights.pth',
        '--sweep',
        'reducer.grid=0.5',
        '--no-smaller-input',
        '--num',
        2,
        '--rounds',
        1,
        '--work-dir',
        tmp_path,
    )
    printed = capsys.readouterr().out
    assert printed.count('on the first 2 images only') == 2
    assert all(row['first_only'] and row['images'] == 2 for row in rows(tmp_path).values())
    assert (tmp_path / 'tradeoff.csv').read_text().count('the first 2 images only') == 2


def test_products_without_a_formula_are_told(town, call, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('mmtoken.analysis.counter.looks_like_a_product', lambda name: name == 'gelu')
    flags = [
        town / 'pooled.py',
        town / 'weights.pth',
        '--sweep',
        'reducer.grid=0.5',
        '--no-smaller-input',
        '--num',
        1,
        '--rounds',
        1,
        '--work-dir',
        tmp_path,
    ]
    for _ in range(2):  # measured, and read
        call('tradeoff', *flags)
        lines = capsys.readouterr().err.strip().splitlines()[-2:]
        assert [line.split(' (')[0] for line in lines] == [
            f'MACs of {name} are too low, no formula for gelu' for name in ('dense', 'grid=0.5')
        ]
    assert all(list(row['missed']) == ['gelu'] for row in rows(tmp_path).values())


# ---------------------------------------------------------------------- going on
class Killed(BaseException):
    """As a signal would be: nothing catches it."""


@pytest.fixture
def scored(monkeypatch):
    """Names of the reducers that were scored, in order; raises at a number put into ``scored.kill``."""
    real, seen = Contender.score, []

    class Seen(list):
        kill = None

    seen = Seen()

    def score(self):
        if len(seen) == seen.kill:
            raise Killed
        reducer = self.model.backbone.reducer
        seen.append(reducer and reducer.grid)
        return real(self)

    monkeypatch.setattr(Contender, 'score', score)
    return seen


def test_a_killed_run_goes_on(town, call, tmp_path, scored):
    flags = [town / 'pooled.py', town / 'weights.pth', '--rounds', 1, '--num', 1, '--no-smaller-input']
    flags += ['--work-dir', tmp_path, '--sweep']
    scored.kill = 2
    with pytest.raises(Killed):
        call('tradeoff', *flags, 'reducer.grid=0.4,0.5,0.6')
    assert scored == [None, 0.4] and not (tmp_path / 'tradeoff.json').exists()
    kept = json.loads((tmp_path / 'points.json').read_text())
    scored.kill = None
    call('tradeoff', *flags, 'reducer.grid=0.4,0.5,0.6')
    assert scored == [None, 0.4, 0.5, 0.6]
    now = json.loads((tmp_path / 'points.json').read_text())
    assert all(now[key] == point for key, point in kept.items()) and len(now) > len(kept)
    call('tradeoff', *flags, 'reducer.grid=0.6,0.7')
    assert scored[4:] == [0.7] and list(rows(tmp_path)) == ['dense', 'grid=0.6', 'grid=0.7']


def test_a_point_is_known_by_all_that_decides_it(town, tmp_path):
    weights, other = town / 'weights.pth', tmp_path / 'other.pth'
    state = torch.load(weights, weights_only=True)
    state['state_dict']['decode_head.conv_seg.bias'] += 1
    torch.save(state, other)
    dense = Setting('dense', 'dense', read_config(town / 'dense.py'), str(weights))
    cfg = read_config(town / 'pooled.py')

    def keys(cfg=cfg, weights=weights, dense=dense, **kwargs):
        setting = Setting('a', 'reduced', cfg, str(weights))
        return [Tradeoff(tmp_path, dense, **kwargs).key(setting, stage) for stage in ('metrics', 'macs', 'seconds')]

    same = keys()
    assert keys() == same and len(set(same)) == 3
    elsewhere = with_settings(cfg, {})
    elsewhere.work_dir, elsewhere.optim_wrapper = 'other', dict(type='OptimWrapper')
    assert keys(elsewhere) == same
    moved = [
        keys(with_settings(cfg, {'reducer.grid': 0.6})),
        keys(smaller_input(cfg, 0.5, 14)),
        keys(weights=other),
        keys(num=3),
    ]
    assert all(a != b for other in moved for a, b in zip(other, same))
    assert [a == b for a, b in zip(keys(rounds=4), same)] == [True, True, False]
    assert [a == b for a, b in zip(keys(pictures=4), same)] == [True, False, False]
    assert [a == b for a, b in zip(keys(dense=Setting('d', 'dense', cfg, str(weights))), same)] == [True, True, False]


def test_a_point_knows_pictures_labels_and_code(town, tmp_path, monkeypatch):
    from mmtoken.analysis import tradeoff

    data = shutil.copytree(town / 'data', tmp_path / 'data')
    cfg = read_config(town / 'dense.py', {'val_dataloader.dataset.data_root': str(data)})
    dense = Setting('dense', 'dense', cfg, str(town / 'weights.pth'))

    def key():
        return Tradeoff(tmp_path / 'work', dense).key(dense, 'metrics')

    seen = [key(), key()]
    assert seen.pop() == seen[0]
    label, picture = data / 'labels/val/2.png', data / 'images/val/1.jpg'
    for path in (label, picture):
        other = path.with_stem(str(3 - int(path.stem)))
        before, about = path.read_bytes(), path.stat()
        shutil.copyfile(other, path)  # in place
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
        seen.append(key())
        path.write_bytes(before)
    (data / 'images/train/0.jpg').write_text('not scored')
    assert key() == seen[0]
    monkeypatch.setattr(tradeoff, 'code_digest', lambda: 'other')
    seen.append(key())
    assert len(set(seen)) == 4


def test_two_runs_in_one_work_dir_keep_the_points_of_both(town, tmp_path):
    dense = Setting('dense', 'dense', read_config(town / 'dense.py'), str(town / 'weights.pth'))
    one, other = Tradeoff(tmp_path, dense), Tradeoff(tmp_path, dense)
    for run, name in ((one, 'a'), (other, 'b'), (one, 'c')):
        run.points[name] = dict(name=name)
        run.save()
    assert list(json.loads((tmp_path / 'points.json').read_text())) == ['a', 'b', 'c']
    assert not list(tmp_path.glob('*.part')) and not list(tmp_path.glob('.*.part'))


@pytest.mark.parametrize('text', ['{"a": ', '[]', '7'])
def test_a_points_file_that_is_none_is_one_line(town, refuses, tmp_path, text):
    (tmp_path / 'points.json').write_text(text)
    flags = ['--work-dir', tmp_path, '--sweep', 'reducer.grid=0.5']
    refuses('tradeoff', town / 'pooled.py', town / 'weights.pth', *flags, words=['points.json', 'mend or remove it'])


@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='looks at the open files of Linux')
def test_a_setting_that_is_done_holds_no_file(town, tmp_path):
    def logs():
        return [
            link
            for link in map(os.path.realpath, Path('/proc/self/fd').iterdir())
            if link.startswith(str(tmp_path)) and link.endswith('.log')
        ]

    dense = Setting('dense', 'dense', read_config(town / 'dense.py'), str(town / 'weights.pth'))
    tradeoff, cfg = Tradeoff(tmp_path, dense), read_config(town / 'pooled.py')
    tradeoff.contender(dense)
    for grid in (0.4, 0.5, 0.6):
        tradeoff.contender(Setting('a', 'reduced', with_settings(cfg, {'reducer.grid': grid}), dense.checkpoint))
    assert len(logs()) == 2  # of the dense one and the last


# ---------------------------------------------------------------------- what is typed
@pytest.mark.parametrize(
    'text, expected',
    [
        ('reducer.grid=0.3,0.5', ('reducer.grid', [0.3, 0.5])),
        ('reducer.grid=(24, 18),0.5', ('reducer.grid', [(24, 18), 0.5])),
        ('reducer.layers=[0,1],[2]', ('reducer.layers', [[0, 1], [2]])),
        ('reducer.mode=nearest, bilinear', ('reducer.mode', ['nearest', 'bilinear'])),
        ('reducer.proportional=True', ('reducer.proportional', [True])),
        ('reducer.r=None,8', ('reducer.r', [None, 8])),
    ],
)
def test_values(text, expected):
    assert parse_values('--sweep', text) == expected == parse_space('--search', text)


def test_ranges_and_places():
    assert parse_space('--search', 'reducer.r=10:80') == ('reducer.r', (10, 80))
    _key, (low, high) = parse_space('--search', 'reducer.grid=0.3:1')
    assert (low, high) == (0.3, 1.0) and type(high) is float


@pytest.mark.parametrize(
    'text, expected',
    [
        ('a.py:b.pth', ('a.py', 'b.pth', '')),
        ('a.py:b.pth:small: ours', ('a.py', 'b.pth', 'small: ours')),
        ('mmseg::vit/a.py:b.pth', ('mmseg::vit/a.py', 'b.pth', '')),
        ('mmseg::vit/a.py:b.pth:small', ('mmseg::vit/a.py', 'b.pth', 'small')),
    ],
)
def test_competitors_are_files_or_of_packages(text, expected):
    assert variants.parse_competitor('--competitor', text) == expected


def test_settings_reach_every_reducer(town):
    cfg = read_config(town / 'stacked.py')
    changed = with_settings(cfg, {'reducer.0.grid': 0.8, 'reducer.1.layers.0': 1})
    assert [r.get('grid') for r in changed.model.backbone.reducer] == [0.8, None]
    assert changed.model.backbone.reducer[1].layers == [1, 3] and cfg.model.backbone.reducer[0].grid == 0.5
    check_key(cfg, '--sweep', 'reducer.0.grid')
    for key, message in [
        ('reducer.grid', r'start with reducer.0. or reducer.1.$'),
        ('reducer.1.grid', 'ToMe has no argument grid, but r, keep, layers, proportional, count_prefix$'),
    ]:
        with pytest.raises(UserError, match=message):
            check_key(cfg, '--sweep', key)


@pytest.mark.parametrize(
    'change, words',
    [
        (['--sweep', 'reducer.keep_ratio=1'], ['--sweep reducer.keep_ratio', 'no argument keep_ratio', 'layer, grid']),
        (['--sweep', 'out_indices=1'], ['--sweep out_indices', 'start with reducer.']),
        (['--sweep', 'reducer.grid'], ['--sweep reducer.grid', 'KEY=VALUE']),
        (['--sweep', 'reducer.grid=1.5'], ['grid=1.5 is outside (0, 1]']),
        (['--sweep', 'reducer.layer=1,7'], ['reducer.layer=7 is not a block', '0 to 3']),
        (['--search', 'reducer.grid=0.9:0.3', '--max-drop', '1'], ['--search reducer.grid=0.9:0.3', 'LOW:HIGH']),
        ([], ['--sweep', '--target-speedup']),
        (['--sweep', 'reducer.grid=0.5', '--smaller-input', '0'], ['--smaller-input 0', 'between 0 and 1']),
        (['--sweep', 'reducer.grid=0.5', '--smaller-input', '0.5', '-1'], ['--smaller-input -1', 'between 0 and 1']),
        (['--sweep', 'reducer.grid=0.5', '--sweep', 'reducer.grid=0.7'], ['--sweep reducer.grid', 'twice', 'A,B']),
        (
            ['--max-drop', '1', '--search', 'reducer.grid=0.5', '--search', 'reducer.grid=0.7:0.9'],
            ['--search reducer.grid', 'twice'],
        ),
        (['--sweep', 'reducer.grid=0.5', '--num', '0'], ['--num 0', 'above 0']),
        (['--sweep', 'reducer.grid=0.5', '--competitor', 'x.py'], ['--competitor x.py', 'CONFIG:CHECKPOINT']),
        (['--sweep', 'reducer.grid=0.5', '--competitor', 'x.py:y'], ['config file not found', 'x.py']),
        (['--sweep', 'reducer.grid=0.5', '--metric', 'AP'], ['--metric AP', 'mIoU']),
        (['--sweep', 'reducer.grid=0.5', '--cfg-options', 'val_dataloader.dataset.data_root=/gone'], ['/gone']),
        (['--sweep', 'reducer.grid=0.5', '--cfg-options', 'val_evaluator=None'], ['no val_evaluator']),
    ],
)
def test_bad_input_is_one_line(town, refuses, tmp_path, change, words):
    refuses('tradeoff', town / 'pooled.py', town / 'weights.pth', '--work-dir', tmp_path, *change, words=words)


@pytest.fixture
def torn(town, tmp_path):
    """A copy of the town whose last picture is none."""
    data = shutil.copytree(town / 'data', tmp_path / 'torn')
    (data / 'images/val/3.jpg').write_text('no picture')
    return [f'{split}_dataloader.dataset.data_root={data}' for split in ('val', 'test')]


def test_a_picture_that_cannot_be_read_is_one_line(town, refuses, tmp_path, torn):
    refuses(
        'get_flops',
        town / 'pooled.py',
        '--cfg-options',
        *torn,
        words=['test_dataloader.dataset: item 3', '3.jpg', '--images DIR'],
    )
    cfg = read_config(town / 'dense.py', dict(line.split('=') for line in torn))
    contender = Contender(Setting('a', 'dense', cfg, str(town / 'weights.pth')), tmp_path, None, 4)
    with pytest.raises(UserError, match='val_dataloader.dataset: item 3: .*3.jpg'):
        contender.macs()


def test_missing_files_and_packages_are_one_line(town, refuses, tmp_path, monkeypatch):
    sweep = ['--sweep', 'reducer.grid=0.5', '--work-dir', tmp_path]
    refuses('tradeoff', town / 'dense.py', town / 'weights.pth', *sweep, words=['dense.py', 'reducer is missing'])
    refuses('tradeoff', town / 'pooled.py', town / 'gone.pth', *sweep, words=['checkpoint not found', 'gone.pth'])
    refuses(
        'tradeoff',
        town / 'pooled.py',
        town / 'weights.pth',
        *sweep,
        '--competitor',
        f'{town}/tome.py:gone.pth',
        words=['checkpoint not found', 'gone.pth'],
    )
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name == 'optuna' else find(name, *a))
    refuses('tradeoff', town / 'pooled.py', town / 'weights.pth', '--max-drop', 1, words=['optuna', 'pip install'])


def test_metrics_of_a_model_that_finds_nothing_are_undefined(monkeypatch):
    """For such mmdet's evaluator gives an empty dict."""
    given = dict(dense=dict(mAP=0.4), few={})
    monkeypatch.setattr(Tradeoff, 'measure', lambda self, setting, *stages: dict(metrics=given[setting]))
    tradeoff = Tradeoff.__new__(Tradeoff)
    tradeoff.dense = 'dense'
    assert tradeoff.score('dense', 'mAP') == 0.4 and np.isnan(tradeoff.score('few', 'mAP'))
    given['dense'] = {}
    with pytest.raises(UserError, match='--metric mAP: val_evaluator gives nothing, since .* finds nothing'):
        tradeoff.score('dense', 'mAP')
