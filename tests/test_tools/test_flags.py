"""A flag that would do nothing, or a number that is none, is refused before any file is read."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'
SWEEP = ['a.py', 'a.pth', '--sweep', 'reducer.r=1']
RESULTS = ['a.py', '--checkpoint', 'a.pth', '--out', 'a.json']
REFUSED = [
    ('analysis_tools/benchmark', ['a.py', '--threads', '0'], '--threads 0: give 1 or more'),
    ('analysis_tools/benchmark', ['a.py', '--threads', '-1'], '--threads -1: give 1 or more'),
    ('analysis_tools/benchmark', ['a.py', 'b.py', '--breakeven', '0'], '--breakeven 0: give 1 or more'),
    ('analysis_tools/benchmark', ['a.py', '--breakeven'], '--breakeven: there is nothing to compare'),
    ('analysis_tools/benchmark', ['a.py', '--shape', '0'], '--shape 0: give 1 or more'),
    ('analysis_tools/benchmark', ['a.py', '--batch', '1', '0'], '--batch 0: give 1 or more'),
    ('analysis_tools/benchmark', ['a.py', '--rounds', '4'], '--rounds 4: give 5 or more'),
    ('analysis_tools/benchmark', ['a.py', '--num', '0'], '--num 0: give 1 or more'),
    ('analysis_tools/benchmark', ['a.py', '--smaller-input', 'nan'], '--smaller-input nan: give a part'),
    (
        'analysis_tools/benchmark',
        ['a.py', '--smaller-input', '0.5', '--no-smaller-input'],
        '--smaller-input would do nothing beside --no-smaller-input',
    ),
    (
        'analysis_tools/get_flops',
        ['a.py', '--shape', '32', '--dataset', '3'],
        '--dataset would do nothing beside --shape: one blank image is counted',
    ),
    ('analysis_tools/get_flops', ['a.py', '--dataset', '0'], '--dataset 0: give 1 or more'),
    ('analysis_tools/get_flops', ['a.py', '--shape', '-4'], '--shape -4: give 1 or more'),
    ('analysis_tools/get_flops', ['a.py', '--cfg-options', 'nothing'], '--cfg-options nothing: this sets nothing'),
    ('analysis_tools/vis_tokens', ['a.py', 'b', 'c', '--layers', '-1'], '--layers -1: give 0 or more'),
    ('analysis_tools/vis_tokens', ['a.py', 'b', 'c', '--shape', '0'], '--shape 0: give 1 or more'),
    ('analysis_tools/vis_tokens', ['a.py', 'b', 'c', '--cfg-options', '=1'], '--cfg-options =1: this sets nothing'),
    (
        'analysis_tools/tradeoff',
        [*SWEEP, '--search', 'reducer.r=1:3'],
        '--search would do nothing without --target-speedup or --max-drop',
    ),
    (
        'analysis_tools/tradeoff',
        [*SWEEP, '--trials', '3'],
        '--trials would do nothing without --target-speedup or --max-drop',
    ),
    (
        'analysis_tools/tradeoff',
        [*SWEEP, '--smaller-input', '0.5', '--no-smaller-input'],
        '--smaller-input would do nothing beside --no-smaller-input',
    ),
    ('analysis_tools/tradeoff', ['a.py', 'a.pth', '--max-drop', 'nan'], '--max-drop nan: give a finite number'),
    ('analysis_tools/tradeoff', ['a.py', 'a.pth', '--target-speedup', 'inf'], '--target-speedup inf: must be'),
    ('analysis_tools/tradeoff', ['a.py', 'a.pth', '--target-speedup', 'nan'], '--target-speedup nan: must be'),
    ('analysis_tools/tradeoff', [*SWEEP, '--num', '0'], '--num 0: must be above 0'),
    ('analysis_tools/tradeoff', [*SWEEP, '--smaller-input', '1.5'], '--smaller-input 1.5: give a part'),
    ('analysis_tools/tradeoff', [*SWEEP, '--cfg-options', 'a'], '--cfg-options a: this sets nothing'),
    ('analysis_tools/tradeoff', ['a.py', 'a.pth'], 'Nothing to do'),
    ('misc/results', ['a.py', 'b/a.py', *RESULTS[1:]], 'a: two configs have this name'),
    ('misc/gpu_report', ['--out', 'a', '--minutes', 'nan'], '--minutes nan: must be above 0'),
    ('misc/gpu_report', ['--out', 'a', '--minutes', '0'], '--minutes 0.0: must be above 0'),
    ('misc/gpu_report', ['--out', 'a', '--dry-run', '--device', 'cuda'], '--device would do nothing beside --dry-run'),
    ('misc/gpu_report', ['--table', 'a', '--minutes', '3'], '--minutes would do nothing beside --table'),
    ('misc/gpu_report', ['--macs', 'a', '--dry-run'], '--dry-run would do nothing beside --macs'),
    ('misc/gpu_report', ['--out', 'a', '--table', 'b'], 'give one of --out, --table and --macs'),
    ('misc/fit_selector', ['a.py', 'a.pth', '--out', 'b', '--num', '0'], '--num 0: must be above 0'),
    ('misc/fit_selector', ['a.py', 'a.pth', '--out', 'b', '--ridge', 'nan'], '--ridge nan: must be above 0'),
    ('misc/bake_body', ['--samples', '0'], '--samples 0: give 40 or more'),
    ('deployment/export', ['a.py', '--out', 'b', '--num', '0'], '--num 0: give 1 or more'),
    ('deployment/export', ['a.py', '--out', 'b', '--tolerance', 'nan'], '--tolerance nan: give 0 or more'),
    ('deployment/benchmark_onnx', ['a.onnx', '--threads', '0'], '--threads 0: give 1 or more'),
    ('demo', ['--rounds', '0'], '--rounds 0: give 1 or more'),
    ('test', ['a.py', 'a.pth', '--wait-time', '1'], '--wait-time would do nothing without --show'),
    ('test', ['a.py', 'a.pth', '--show', '--wait-time', 'nan'], '--wait-time nan: give 0 or more'),
]


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    modules = {}

    def check(tool, argv, words):
        if tool not in modules:
            spec = importlib.util.spec_from_file_location(f'flags_of_{Path(tool).name}', TOOLS / f'{tool}.py')
            modules[tool] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[tool])
        monkeypatch.setattr(sys, 'argv', [f'{tool}.py', *argv])
        with pytest.raises(SystemExit) as caught:
            modules[tool].main()
        lines = capsys.readouterr().err.splitlines()
        assert caught.value.code == 2 and len(lines) == 1 and words in lines[0], (tool, argv, lines)

    return check


def test_flags_that_would_do_nothing(fails):
    for row in REFUSED:
        fails(*row)
    assert not list(Path().iterdir())  # nothing was begun


def test_what_is_no_report_is_one_line(fails):
    Path('bench.json').write_text('{"rows": [{"name": "other", "batch": 1}]}')
    Path('list.json').write_text('[]')
    Path('a.py').write_text("model = dict(type='A')")
    Path('a.pth').write_text('')
    fails('misc/gpu_report', ['--table', 'gone.json'], 'gone.json: no report of this tool')
    fails('misc/gpu_report', ['--table', 'list.json'], 'list.json: holds a list')
    fails('misc/results', [*RESULTS, '--benchmark', 'bench.json'], '--benchmark bench.json: it has no row of any')
    fails('misc/results', [*RESULTS, '--benchmark', 'list.json'], 'list.json: holds a list')
    fails('misc/results', ['a.py', '--checkpoint', 'a.pth', '--out', 'list.json'], 'list.json: holds a list')
    for text in ('{"rows": 5}', '{"rows": [5]}', '{"rows": [{"a": 1}]}', '{"a": 1}'):
        Path('odd.json').write_text(text)
        fails(
            'misc/results',
            ['a.py', '--checkpoint', 'a.pth', '--out', 'odd.json'],
            'odd.json: holds no rows with config',
        )
        fails('misc/results', [*RESULTS, '--benchmark', 'odd.json'], 'odd.json: holds no rows with name and batch')
        for flag in ('--table', '--macs'):
            fails('misc/gpu_report', [flag, 'odd.json'], 'odd.json: holds no rows with config and arch')


# ------------------------------------------------------------------------------------------------------------ one way
def called(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_tools_read_write_and_fail_in_one_way():
    """Files are written by mmtoken.engine.files, options read by CfgOptions, and main() ends in one line."""
    for path in [*TOOLS.rglob('*.py'), *(TOOLS.parent / 'mmtoken/analysis').glob('*.py')]:
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert 'DictAction' not in names, f'{path}: CfgOptions refuses what sets nothing'
        ends = ('.write_text', '.write_bytes', '.imwrite', 'json.dump')
        wrong = [name for name in called(tree) if name.endswith(ends)]
        assert not wrong, f'{path}: {wrong} may leave half a file; see mmtoken.engine.files'
        if path.is_relative_to(TOOLS):
            main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == 'main')
            assert [ast.unparse(d) for d in main.decorator_list] == ['one_line_errors()'], path
