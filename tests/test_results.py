"""The figures in the README tables are those of the JSON files that the pages name.

A table whose header starts with ``config`` is held against the files linked in the last paragraph before it that links
any. Its rows name configs: in full, or without the end of the name, or ``dense`` for the first of a file. The
table over all tasks is what ``tools/misc/overview.py`` makes of the files.
"""

import functools
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mmtoken.analysis.tables import RIVAL, margin_of
from mmtoken.engine.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'tools/deployment/README.md', *sorted(ROOT.glob('configs/*/README.md'))]
FIGURE = re.compile(r'[+-]?\d+(\.\d+)?( \([^)]*\))?|faster')
LINK = re.compile(r'\[(?P<text>[^]]*)\]\((?P<target>[^)\s]+)\)')

pytestmark = pytest.mark.skipif(not PAGES[0].exists(), reason='needs a checkout')


def tables(text):
    """Yields, for each table, the number of its first line, its lines, and the paths of the JSON files it is from."""
    made = re.sub('<!-- overview -->.*?<!-- /overview -->', lambda m: '\n' * m[0].count('\n'), text, flags=re.DOTALL)
    lines, start, files = made.splitlines(), None, []
    for number, line in enumerate([*lines, '']):
        if line.startswith('|'):
            start = number if start is None else start
        elif start is not None:
            yield start, lines[start:number], files
            start = None
        elif named := [m['target'] for m in LINK.finditer(line) if m['target'].endswith('.json')]:
            follows = number > 0 and any(file in lines[number - 1] for file in files)  # the same paragraph goes on
            files = files + named if follows else named


def cells(line):
    return [cell.strip() for cell in line.strip().strip('|').split('|')]


@functools.lru_cache(None)
def read(path):
    return json.loads(path.read_text())


def rows_of(path, name):
    """Rows of a file that are about the config of that name, which may lack its end; rows of one config only."""
    rows = read(path)['rows']
    label = [row.get('config') or row['name'] for row in rows]
    if name == 'dense' or name.startswith('dense, ×'):
        name = label[0] + name.removeprefix('dense')
    known = {full for full in label if full == name} or {full for full in label if full.startswith(f'{name}_')}
    assert len(known) < 2, f'{name}: {path.name} has {sorted(known)}; name in the table, or before it, which one'
    return [row for row, full in zip(rows, label) if full in known]


def values(column, batch, name, paths):
    """What the files say about a cell, usually one number; several if several files hold it."""
    found, base = [], {path: read(path)['rows'][0] for path in paths}
    for path in paths:
        for row in rows_of(path, name):
            metric = column.removeprefix('Δ ')
            if metric in row.get('metrics', {}):
                found.append(row['metrics'][metric] - (base[path]['metrics'][metric] if metric != column else 0))
            elif column in COST and COST[column][0] in row and batch in (None, row.get('batch')):
                found.append(COST[column][1](row))
            elif column == RIVAL and row.get('verdict'):
                found.append(row['verdict'])
            elif column in row:
                found.append(row[column])
    return found


#: For columns of costs: the key in a row, which some files lack, and what to make of the row.
COST = {
    'GMACs': ('macs', lambda row: row['macs'] / 1e9),
    'MACs ×': ('mac_ratio', lambda row: row['mac_ratio']),
    'ms': ('ms_per_image', lambda row: row['ms_per_image']['median']),
    'speed-up': ('speedup', lambda row: row['speedup']['ratio']),
    '÷': ('efficiency', lambda row: row['efficiency']),
}


def columns(header):
    """``(column, batch size or None)`` of each cell; ``Δ`` and ``÷`` belong to what stands before them."""
    out, batch = [], None
    for cell in header:
        column, _, number = (f'Δ {out[-1][0]}' if cell == 'Δ' else cell).partition(', ')
        if number:
            batch = int(number.removeprefix('batch '))
        out.append((column, batch if number or column == '÷' else None))
    return out


def said(value, like, head):
    """A value of a file, written as the cell is: as many decimals, with or without the interval."""
    digits = len(re.match(r'[^. ]*\.?(\d*)', like)[1])
    if isinstance(value, dict):
        return margin_of(value if '(' in like else value | dict(low=None), digits)
    return format(value, f'{"+" if head == "Δ" else ""}.{digits}f')


def check(page, text):
    """Compares every figure of a page's tables; returns how many there are."""
    count = 0
    for start, lines, files in tables(text):
        header, figures = cells(lines[0]), columns(cells(lines[0]))
        for number, line in enumerate(lines[2:], start + 3):
            row, where = cells(line), f'{page.parent.name}/{page.name}:{number}'
            assert len(row) == len(header), f'{where}: {len(row)} cells under {len(header)} headers'
            link = LINK.fullmatch(row[0])
            name = Path(link['target']).stem if link else row[0]
            for cell, (column, batch), head in zip(row[1:], figures[1:], header[1:]):
                if not FIGURE.fullmatch(cell):
                    known = column in COST or column.startswith(('mIoU', 'Δ'))
                    assert not (known and cell), f'{where}: {head} is {cell!r}, no figure'
                    continue
                assert header[0] == 'config' and files, f'{where}: {cell} stands in a table that no JSON is named for'
                found = {
                    said(value, cell, head)
                    for value in values(column, batch, name, [page.parent / file for file in files])
                }
                assert found == {cell}, f'{where}: {name}, {head} is {cell}, and {sorted(found) or "nothing"} in JSON'
                count += 1
    return count


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_figures_are_those_of_the_json(page):
    count = check(page, page.read_text(encoding='utf-8'))
    assert count or not list(page.parent.glob('results/*.json')), 'files with results, and no table'


@pytest.mark.parametrize('page', PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_any_altered_digit_is_seen(page):
    text = page.read_text(encoding='utf-8')
    altered = 0
    for _, rows, files in tables(text):
        if not files or cells(rows[0])[0] != 'config':
            continue
        context = [f'[]({file})' for file in files] + rows[:2]
        for row in rows[2:]:
            skip = [m.span() for m in re.finditer(r'\[[^]]*\]\(\S+\)|\d+ (?!to )\w[^|]*', row)]  # links, words
            for place in [m.start() for m in re.finditer(r'\d', row)]:
                if any(low <= place < high for low, high in skip):
                    continue
                other = f'{row[:place]}{(int(row[place]) + 1) % 10}{row[place + 1 :]}'
                with pytest.raises(AssertionError):
                    check(page, '\n'.join([*context, other]))
                altered += 1
    assert altered > 100 or page.parent != ROOT


@pytest.mark.parametrize(
    'change, message',
    [
        (('| 57.22 |', '| 57.21 |'), r"README.md:\d+: .*, mIoU is 57.21, and \['57.22'\] in JSON"),
        (('| tome-r80 |', '| tome-r81 |'), 'tome-r81, mIoU is 57.25, and nothing in JSON'),
        (('| mIoU |', '| mAP |'), 'mAP is 57.22, and nothing in JSON'),
        (('| config |', '| setting |'), 'no JSON is named for'),
        (('| 57.22 |', '| 57.22 | 1 |'), r'\d+ cells under \d+ headers'),
        (('| 57.22 |', '| 57,22 |'), "mIoU is '57,22', no figure"),
        (('_linear_camvid.json)', '_segmenter_camvid.json)'), r"57.22, and \['53.25'\]"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    text = PAGES[0].read_text(encoding='utf-8')
    assert change[0] in text
    with pytest.raises(AssertionError, match=message):
        check(PAGES[0], text.replace(*change, 1))


def test_model_index_has_the_same_figures():
    known = {}  # a config may have been scored with several checkpoints
    for path in ROOT.glob('configs/*/results/*.json'):
        for row in read(path)['rows']:
            if 'metrics' in row and 'config' in row:
                known.setdefault(row['config'], []).append(row['metrics'])
    for path in ROOT.glob('configs/*/metafile.yml'):
        for model in yaml.safe_load(path.read_text())['Models']:
            for result in model.get('Results', []):
                for metric, value in result['Metrics'].items():
                    found = [metrics[metric] for metrics in known[model['Name']] if metric in metrics]
                    assert any(value == pytest.approx(one, abs=0.005) for one in found), (model['Name'], value, found)


def test_links_to_json_lead_somewhere():
    for page in PAGES:
        for link in LINK.finditer(page.read_text(encoding='utf-8')):
            if link['target'].endswith('.json'):
                assert (page.parent / link['target']).is_file(), f'{page}: {link["target"]}'


# ---------------------------------------------------------------------- the tool that writes them
def load(tool):
    """``tools/misc/{tool}.py`` as a module."""
    spec = importlib.util.spec_from_file_location(tool, ROOT / f'tools/misc/{tool}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def results(tmp_path, monkeypatch):
    """``tools/misc/results.py`` on two configs, with the arguments of a call, which end with code 2; scores nothing."""
    module = load('results')
    monkeypatch.setattr(module, 'score', lambda *args: pytest.fail('work has started'))
    monkeypatch.chdir(tmp_path)
    for name in ('dense', 'other'):
        (tmp_path / f'{name}.py').write_text('a = 1\n')
    (tmp_path / 'weights.pth').write_bytes(b'')

    def refuses(*args, words):
        monkeypatch.setattr(sys, 'argv', ['results.py', *args, '--no-smaller-input'])
        with pytest.raises(SystemExit) as caught:
            module.main()
        assert caught.value.code == 2 and all(word in str(caught.value) for word in words), str(caught.value)

    refuses.module = module
    return refuses


@pytest.mark.parametrize(
    'args, words',
    [
        (
            ['dense.py', 'other.py', '--checkpoint', 'weights.pth', 'gone.pth'],
            ['--checkpoint: file not found: gone.pth'],
        ),
        (['dense.py', 'gone.py', '--checkpoint', 'weights.pth'], ['config file not found: gone.py']),
        (['dense.py', '--checkpoint', 'weights.pth', '--benchmark', 'gone.json'], ['--benchmark: file not found']),
        (
            ['dense.py', '--checkpoint', 'weights.pth', '--out', 'dense.py/out.json'],
            ['--out', 'cannot make the folder'],
        ),
    ],
)
def test_bad_input_ends_before_any_work(results, args, words):
    results(*args, *(['--out', 'out.json'] if '--out' not in args else []), words=words)


def test_rows_of_several_sizes_are_no_row_of_a_table(results, tmp_path):
    def write(name, *shapes):
        rows = [dict(name='dense', batch=batch, shape=shape, macs=shape[0]) for batch, shape in shapes]
        (tmp_path / name).write_text(json.dumps(dict(rows=rows)))
        return tmp_path / name

    one, four = write('one.json', (1, [32, 48])), write('four.json', (4, [32, 48]))
    assert set(results.module.read_latencies([one, four, one], ['dense'])) == {('dense', 1), ('dense', 4)}
    write('sweep.json', (1, [32, 48]), (1, [64, 96]))
    results(
        'dense.py',
        '--checkpoint',
        'weights.pth',
        '--out',
        'o.json',
        '--benchmark',
        'sweep.json',
        words=['sweep.json: dense was timed at several sizes', '--breakeven'],
    )
    write('other.json', (1, [64, 96]))
    results(
        'dense.py',
        '--checkpoint',
        'weights.pth',
        '--out',
        'o.json',
        '--benchmark',
        'one.json',
        'other.json',
        words=['other.json: dense was timed at several sizes'],
    )


def test_a_row_is_known_by_config_weights_and_pictures(results, tmp_path, monkeypatch, capsys):
    module, scored = results.module, []
    monkeypatch.setattr(
        module, 'score', lambda config, *args: scored.append(config.stem) or dict(mIoU=float(len(scored)))
    )
    monkeypatch.setattr(module, 'data_digest', lambda cfg, split: (tmp_path / 'data').read_text())
    (tmp_path / 'data').write_text('pictures')

    def run():
        monkeypatch.setattr(
            sys,
            'argv',
            'results.py dense.py other.py --checkpoint weights.pth --out out.json --no-smaller-input'.split(),
        )
        module.main()
        return [row['metrics']['mIoU'] for row in json.loads((tmp_path / 'out.json').read_text())['rows']]

    assert run() == run() == [1, 2]
    assert '| other | 2.00 | +1.00 |' in capsys.readouterr().out
    (tmp_path / 'data').write_text('others')
    assert run() == [3, 4]
    (tmp_path / 'weights.pth').write_bytes(b'x')
    (tmp_path / 'other.py').write_text('a = 2\n')
    assert run() == [5, 6] and len(scored) == 6
    (tmp_path / 'other.py').write_text('a = 3\n')
    assert run() == [5, 7]
    module.add_row(tmp_path / 'out.json', dict(config='of another run'))
    assert list(module.known_rows(tmp_path / 'out.json')) == ['dense', 'other', 'of another run']
    results(
        'dense.py', '--checkpoint', 'weights.pth', '--out', 'out.json', '--metric', 'AP', words=['--metric AP', 'mIoU']
    )


def test_a_quick_look_at_the_first_pictures_says_so(results, tmp_path, monkeypatch, capsys):
    module, seen = results.module, []

    def score(path, *args):
        seen.append(module.load_config(str(path)).test_dataloader.dataset.get('indices'))
        return dict(mIoU=50.0)

    monkeypatch.setattr(module, 'score', score)
    monkeypatch.setattr(module, 'check_datasets', lambda *args: None)
    monkeypatch.setattr(module, 'data_digest', lambda *args: 'pictures')
    (tmp_path / 'dense.py').write_text("test_dataloader = dict(dataset=dict(type='Any'))\n")
    call = 'results.py dense.py --checkpoint weights.pth --out out.json --no-smaller-input'
    for flags in (['--num', '2'], ['--num', '2'], []):
        monkeypatch.setattr(sys, 'argv', [*call.split(), *flags])
        module.main()
        (row,) = json.loads((tmp_path / 'out.json').read_text())['rows']
        assert row['config'] == 'dense' and row.get('num') == (2 if flags else None)
    assert seen == [2, None]  # known the second time, and no row of the whole set
    dataset = "dict(type='ConcatDataset', datasets=[dict(type='A'), dict(type='B')])"
    (tmp_path / 'dense.py').write_text(f'test_dataloader = dict(dataset={dataset})\n')
    results(*call.split()[1:-1], '--num', '2', words=['--num: test_dataloader holds 2 datasets'])


def test_the_smaller_picture_is_scored_and_judged(results, tmp_path, monkeypatch, capsys):
    module = results.module
    (tmp_path / 'dense.py').write_text(
        'model = dict(data_preprocessor=dict(size=(28, 42)))\n'
        "test_dataloader = dict(dataset=dict(pipeline=[dict(type='Resize', scale=(42, 28))]))\n"
    )
    host = SimpleNamespace(backbone=SimpleNamespace(patch_size=14))
    monkeypatch.setattr(module, 'read_config', lambda path: None)
    monkeypatch.setattr(module, 'build_model', lambda cfg: host)
    monkeypatch.setattr(module, 'check_datasets', lambda *args: None)
    monkeypatch.setattr(module, 'data_digest', lambda *args: 'pictures')
    sizes = {}

    def score(path, *args):
        cfg = module.load_config(str(path))
        if path.stem != 'other':
            scale = tuple(cfg.test_dataloader.dataset.pipeline[0].scale)
            sizes[path.stem] = scale, tuple(cfg.model.data_preprocessor.size)
        return dict(mIoU=dict(dense=60.0, other=59.0).get(path.stem, 50.0))

    monkeypatch.setattr(module, 'score', score)

    def row(name, ratio):
        speed = dict(ratio=ratio, low=ratio * 0.99, high=ratio * 1.01)
        return dict(name=name, batch=1, macs=1, mac_ratio=1, speedup=speed, ms_per_image=dict(median=1), efficiency=1)

    timed = [row('dense', 1.0), row('other', 1.9), row('dense, ×0.5 input', 2.0)]
    (tmp_path / 'times.json').write_text(json.dumps(dict(rows=timed)))
    call = 'results.py dense.py other.py --checkpoint weights.pth --out out.json --benchmark times.json'
    monkeypatch.setattr(sys, 'argv', [*call.split(), '--smaller-input', '0.5'])
    module.main()
    assert sizes == dict(dense=((42, 28), (28, 42)), **{'dense_x0.5': ((28, 14), (14, 28))})
    dense, other, small = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| ')][1:]
    assert (
        dense.endswith('|  |') and small.startswith('| dense, ×0.5 input | 50.00 | -10.00 |') and small.endswith('|  |')
    )
    assert re.search(r'\| \+8\.\d\d \(\+8\.\d\d to \+8\.\d\d\) \|$', other)
    written = json.loads((tmp_path / 'out.json').read_text())['rows']
    assert [row.get('verdict', {}).get('verdict') for row in written] == [None, 'above', None]


def test_rivals_of_another_run_judge(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location('judge', ROOT / 'tools/misc/judge.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def row(name, metric, ratio):
        speed = dict(ratio=ratio, low=ratio * 0.99, high=ratio * 1.01)
        costs = dict(macs=1e9 / ratio, mac_ratio=1 / ratio, efficiency=1.0, ms_per_image=dict(median=9.0))
        return dict(name=name, metrics=dict(mIoU=metric), speedup=speed, **costs)

    dense, small = row('dense', 60.0, 1.0), row('input ×0.5', 50.0, 3.0)
    paths = [tmp_path / name for name in ('ours.json', 'rivals.json')]
    ours = [dense, row('keep=0.5', 59.0, 1.5), row('keep=0.1', 30.0, 9.0)]
    for path, rows in zip(paths, (ours, [dense, small, row('another method', 1.0, 2.0)])):
        path.write_text(json.dumps(dict(rows=rows)))
    monkeypatch.setattr(sys, 'argv', ['judge.py', str(paths[0]), '--rivals', str(paths[1])])
    module.main()
    assert [row.get('verdict', {}).get('verdict') for row in json.loads(paths[0].read_text())['rows']] == [
        None,
        'above',
        'faster',
    ]
    # halfway between the times of the two rivals their curve is at 55
    assert '| keep=0.5 | 59.00 | -1.00 | 0.7 | 0.67 | 9 | 1.50 | 1.00 | +4.00 (' in capsys.readouterr().out
    monkeypatch.setattr(sys, 'argv', ['judge.py', str(paths[1]), '--rivals', str(paths[0])])
    with pytest.raises(SystemExit, match='no row of smaller input'):
        module.main()


def test_the_table_over_all_tasks_is_that_of_the_files(tmp_path, monkeypatch):
    module, page = load('overview'), ROOT / 'configs/expedit/README.md'
    text = page.read_text(encoding='utf-8')
    assert f'{module.BEGIN}{module.table()}{module.END}' in text
    copy = tmp_path / 'page.md'
    copy.write_text(text.replace(module.table(), 'old\n'), encoding='utf-8')
    monkeypatch.setattr(sys, 'argv', ['overview.py', '--page', str(copy)])
    module.main()
    assert copy.read_text(encoding='utf-8') == text
    copy.write_text('no table', encoding='utf-8')
    with pytest.raises(SystemExit, match='it has no lines <!-- overview -->'):
        module.main()


def test_a_cell_of_the_table_over_all_tasks_says_what_was_not_measured():
    module = load('overview')
    task = module.Task('depth', 'rmse', [], [], digits=1, unit=10)
    rows = [
        dict(name='a_b', metrics=dict(rmse=0.5), mac_ratio=0.25),
        dict(name='a_b', batch=4, speedup=dict(ratio=9)),
        dict(name='ab', metrics=dict(rmse=9)),
    ]
    assert module.cell(module.find(rows, 'a'), task, 4.0) == '+1.0 · ×0.25 · –'
    rows.append(dict(name='a_b', batch=1, speedup=dict(ratio=2)))
    assert module.cell(module.find(rows, 'a'), task, 4.0) == '+1.0 · ×0.25 · 2.00'
    with pytest.raises(UserError, match='c: no file of this task has scored it'):
        module.find(rows, 'c')
