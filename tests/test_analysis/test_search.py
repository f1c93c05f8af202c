"""tradeoff.py's search for a target, and the config that it writes."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmtoken.analysis.loading import read_config
from mmtoken.analysis.tradeoff import Contender, Setting, Tradeoff

pytestmark = pytest.mark.usefixtures('plain_dumps')


class Killed(BaseException):
    """As a signal would be: nothing catches it."""


def rows(folder, file='tradeoff.json'):
    return {row['name']: row for row in json.loads((folder / file).read_text())['rows']}


def test_the_search_finds_what_trying_everything_finds(town, call, tmp_path, capsys, steady):
    flags = [town / 'pooled.py', town / 'weights.pth', '--rounds', 2, '--no-smaller-input', '--work-dir', tmp_path]
    settings = ['reducer.layer=1,2', 'reducer.grid=0.35,0.65,0.85', 'reducer.proportional=False']
    call('tradeoff', *flags, *(word for text in settings for word in ('--sweep', text)))
    everything = rows(tmp_path)
    base = everything.pop('dense')['metrics']['mIoU']

    def loss(row):
        return base - row['metrics']['mIoU']

    def speed(row):
        return row['speedup']['ratio']

    limit = sorted(map(loss, everything.values()))[3]  # some lose less, some more
    for goal, met, better in [
        (['--target-speedup', 1.25], lambda row: speed(row) >= 1.25, lambda row: -loss(row)),
        (['--max-drop', limit], lambda row: loss(row) <= limit + 1e-9 and speed(row) > 1, speed),
    ]:
        reaching = [row for row in everything.values() if met(row)]
        assert 0 < len(reaching) < len(everything)
        capsys.readouterr()
        call(
            'tradeoff',
            *flags,
            *goal,
            '--trials',
            24,
            *(word for text in settings for word in ('--search', text)),
            '--cfg-options',
            'model.backbone.reducer.grid=0.9',  # is not to come back in what was found
            'val_dataloader.drop_last=False',
        )  # is to be in it
        _dense, found = json.loads((tmp_path / 'found.json').read_text())['rows']
        assert better(found) == pytest.approx(max(map(better, reaching))) and met(found)
        # the config that was written is the one that was measured, and runs
        cfg = read_config(tmp_path / 'found.py')
        assert cfg.val_dataloader.drop_last is False and cfg.val_dataloader.dataset.data_root == str(town / 'data')
        assert cfg.model.backbone.reducer == dict(
            type='mmtoken.AvgPool', **{k.removeprefix('reducer.'): v for k, v in found['values'].items()}
        )
        contender = Contender(Setting('again', 'searched', cfg, str(town / 'weights.pth')), tmp_path / 'again', None, 1)
        assert contender.score() == found['metrics'] and contender.macs().total == found['macs']
        printed, comment = capsys.readouterr().out, (tmp_path / 'found.py').read_text()
        line = f'mIoU {found["metrics"]["mIoU"]:.2f} ({-loss(found):+.2f}) on 4 images'
        assert line in printed and line in comment and 'found.py' in printed and 'misses' not in printed
        assert printed.count('trial ') == 24 and 'not scored' in printed


def test_a_search_that_was_stopped_proposes_what_an_unbroken_one_does(town, tmp_path, monkeypatch):
    from mmtoken.analysis import search

    monkeypatch.setattr(Tradeoff, 'has', lambda *args: False)
    dense = Setting('dense', 'dense', read_config(town / 'dense.py'), str(town / 'weights.pth'))
    cfg = read_config(town / 'tome.py')
    space = {'reducer.keep': (0.1, 1.0), 'reducer.r': [None], 'reducer.layers': [[0, 1], [2, 3]]}
    seen = []

    def judge(tradeoff, setting, goal, best):
        if len(seen) == stop:
            raise Killed
        seen.append(setting.name)
        return abs(setting.values['reducer.keep'] - 0.4), True, 'fine'

    def run(folder, trials):
        best, _ = search.search(
            Tradeoff(folder, dense), cfg, str(town / 'weights.pth'), space, search.Goal(1.5), trials, lambda line: None
        )
        return best

    monkeypatch.setattr(search, 'judge', judge)
    stop = None
    best = run(tmp_path / 'a', 25)
    unbroken = list(seen)
    assert len(set(unbroken)) == 25 and best.values['reducer.keep'] == pytest.approx(0.4, abs=0.05)
    assert all(name.startswith('keep=') and 'layers=[' in name for name in unbroken)
    for stop in (4, 13):
        seen.clear()
        with pytest.raises(Killed):
            run(tmp_path / f'b{stop}', 25)
        stop = None
        assert run(tmp_path / f'b{len(seen)}', 25).values == best.values
        assert seen == unbroken


def test_what_is_hopeless_is_not_timed_and_what_is_refused_does_not_stop_the_search(
    town, call, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Contender, 'score', lambda self: dict(mIoU=1.0))
    timed = []
    real = Tradeoff.time
    monkeypatch.setattr(Tradeoff, 'time', lambda self, setting: timed.append(setting.name) or real(self, setting))
    flags = [town / 'tome.py', town / 'weights.pth', '--rounds', 1, '--num', 1, '--no-smaller-input']
    flags += ['--work-dir', tmp_path]
    with pytest.raises(SystemExit, match='None of 6 trials reaches a speed-up of at least 50; widen') as caught:
        call(
            'tradeoff',
            *flags,
            '--target-speedup',
            50,
            '--trials',
            6,
            '--search',
            'reducer.keep=0.1:0.9',
            '--search',
            'reducer.r=None,3',
            '--search',
            'reducer.layers=None',
            '--sweep',
            'reducer.r=4',
        )
    assert '\n' not in str(caught.value) and timed == ['dense', 'r=4']
    assert list(rows(tmp_path)) == ['dense', 'r=4'] and (tmp_path / 'tradeoff.png').exists()  # what was measured
    assert len((tmp_path / 'tradeoff.csv').read_text().splitlines()) == 3
    printed = capsys.readouterr().out
    assert printed.count('far below 50.00: not timed, not scored') + printed.count('refused: ') == 6
    assert 'Give either r or keep' in printed and 'far below' in printed


def test_a_config_that_is_written_holds_the_reducers_alone(town, tmp_path):
    from mmtoken.analysis import search

    reducers = [dict(type='mmtoken.AvgPool', layer=1, grid=0.7), dict(type='mmtoken.ToMe', r=None, keep=0.5)]
    wanted = read_config(town / 'stacked.py')
    wanted.model.backbone.reducer = reducers
    search.write_config(tmp_path / 'a.py', town / 'stacked.py', wanted, ['first', 'second'])
    cfg, before = read_config(tmp_path / 'a.py'), read_config(town / 'stacked.py')
    assert [dict(reducer) for reducer in cfg.model.backbone.pop('reducer')] == reducers
    before.model.backbone.pop('reducer')
    assert cfg.to_dict() == before.to_dict() and (tmp_path / 'a.py').read_text().startswith('# first\n# second\n_base_')
    package = 'mmtoken::tome/tome-r110_dinov2-s14_linear_camvid-672x504.py'
    wanted = read_config(package)
    wanted.model.backbone.reducer = dict(type='mmtoken.ToMe', keep=0.5)
    search.write_config(tmp_path / 'b.py', Path(package), wanted, [])
    assert len((tmp_path / 'b.py').read_text().splitlines()) == 2
    assert read_config(tmp_path / 'b.py').model.backbone.reducer == dict(type='mmtoken.ToMe', keep=0.5)


def test_a_config_that_is_written_holds_the_options(town, tmp_path):
    from mmtoken.analysis import search

    wanted = read_config(
        town / 'pooled.py',
        {
            'model.decode_head': dict(_delete_=True, type='SegHead', classes={'a b': 1}, names={'class': 1}),
            'data_root': '/elsewhere',
            'val_dataloader.dataset.pipeline.1.scale': (56, 42),
            'model.backbone.patch_size': 7,
            'new.key': [1, (2, None)],
            'model.test_cfg': dict(mode='slide', crop_size=(4, 4), stride=(2, 2)),
            'val_dataloader.sampler': None,
        },
    )
    search.write_config(tmp_path / 'a.py', town / 'pooled.py', wanted, [])
    found = read_config(tmp_path / 'a.py')
    assert found.to_dict() == wanted.to_dict()
    del wanted.model['test_cfg']  # so that the model is written whole
    search.write_config(tmp_path / 'b.py', town / 'pooled.py', wanted, [])
    assert read_config(tmp_path / 'b.py').model.to_dict() == wanted.model.to_dict()
    assert found.val_dataloader.dataset.pipeline[1].scale == (56, 42) and found.model.decode_head.type == 'SegHead'


@pytest.mark.parametrize('wanted', [dict(speedup=1.5), dict(drop=0.5)])
def test_a_setting_that_finds_nothing_reaches_no_goal(wanted):
    from mmtoken.analysis import search

    tradeoff = SimpleNamespace(dense='dense', mac_speedup=lambda setting: 3.0, speedup=lambda setting: 2.0)
    tradeoff.score = lambda setting, metric: 50.0 if setting == 'dense' else math.nan
    rank, reached, found = search.judge(tradeoff, 'few', search.Goal(**wanted), 1.0)
    assert not reached and math.isfinite(rank) and found.endswith('mIoU is undefined')
