"""``tools/misc/gpu_report.py``: a rehearsal on the CPU, and its tables."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).parents[1] / 'tools/misc/gpu_report.py'

pytestmark = pytest.mark.skipif(not TOOL.exists(), reason='needs a checkout')


def load(monkeypatch, *argv):
    spec = importlib.util.spec_from_file_location('gpu_report', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, 'argv', ['gpu_report.py', *map(str, argv)])
    return module


@pytest.mark.slow
def test_rehearsal(tmp_path, monkeypatch, capsys):
    tool = load(monkeypatch, '--out', tmp_path, '--dry-run')
    tool.main()
    report = json.loads((tmp_path / 'gpu_report.json').read_text())
    assert report['problems'] == [] == report['skipped'] and report['dry_run']
    assert {'device', 'torch', 'cuda', 'driver', 'date', 'commit', 'versions', 'precision', 'elapsed'} <= set(report)
    rows = report['rows']
    wanted = {'name', 'config', 'section', 'arch', 'mode', 'batch', 'tokens', 'shape', 'rounds', 'seconds'}
    wanted |= {'ms_per_image', 'speedup', 'macs', 'mac_ratio', 'efficiency', 'peak_memory', 'cuda_graph', 'compile'}
    assert all(wanted <= set(row) and row['macs'] > 0 for row in rows)
    static = {row['name']: row for row in rows if row['section'] == rows[0]['section']}
    assert next(iter(static)) == 'dense' and len(static) == 9 and static['dense-x0.5']['mac_ratio'] < 0.3
    assert all(row['mac_ratio'] < 1 for name, row in static.items() if name != 'dense')
    assert {row['mode'] for row in rows} == {'eager', 'precisions', 'exits'}
    assert {'dtop-half', 'dovit-half', 'unfused', 'autocast'} <= {row['name'] for row in rows}

    # what was cut off before its MACs were counted gets them later
    for row in rows:
        if row['kind'] != 'exits':
            row.update(macs=None, mac_ratio=None, efficiency=None)
    cut = tmp_path / 'cut.json'
    tool.write(cut, report)
    monkeypatch.setattr(sys, 'argv', ['gpu_report.py', '--macs', str(cut)])
    tool.main()
    assert json.loads(cut.read_text())['rows'] == json.loads((tmp_path / 'gpu_report.json').read_text())['rows']

    capsys.readouterr()
    monkeypatch.setattr(sys, 'argv', ['gpu_report.py', '--table', str(cut)])
    tool.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('| vit-s')]
    assert len(lines) == len({row['config'] for row in rows})


def test_what_takes_too_long_is_skipped_and_what_fails_is_noted(tmp_path, monkeypatch):
    tool = load(monkeypatch, '--out', tmp_path, '--dry-run')
    report = tool.Report(tool.parse_args())
    monkeypatch.setattr(report, 'run', lambda *args: pytest.fail('work has started'))
    report.section('slow', 'small', (6, 8), needs=1e6)

    def fails(*args):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(report, 'run', fails)
    report.section('large', 'small', (6, 8))
    found = json.loads(report.file.read_text())
    assert found['skipped'] == ['slow'] and found['problems'] == ['large: RuntimeError: out of memory']
    assert found['rows'] == []


def test_methods_in_bf16_and_pictures_are_no_noise(monkeypatch):
    """What runs on the GPU in bf16, weights and all, runs so on the CPU."""
    tool = load(monkeypatch)
    images = tool.pictures(2, (84, 112), 'cpu')
    assert (images[..., 1:] == images[..., :-1]).float().mean() < 0.5 and not torch.equal(images[0], images[1])
    flat = (images[..., 1:] - images[..., :-1]).abs().mean()
    assert flat < 0.3 * images.std()  # neighbours are alike
    zoo = tool.Zoo(tool.TOY, 'cpu', torch.bfloat16)
    for models in (zoo.static(), zoo.precisions(), zoo.few()):
        for name, model in models.items():
            with torch.no_grad():
                (out,) = model(images.bfloat16())
            assert out.isfinite().all(), name
