"""Accuracy and cost of several configs, as JSON and as the table of a README.

    python tools/misc/results.py CONFIG [CONFIG ...] --checkpoint CKPT [...] --out FILE.json
                                 [--metric Dice.vessel] [--macs | --benchmark BENCH.json] [--num N]

The first config is the dense baseline; after the others come its rows on smaller pictures, which every method has to
beat, and where those were timed too the last column says whether it does, at the same measured time. Each is scored by
``tools/test.py``; what is already in ``--out`` for the same checkpoint, config text and pictures is not run again, so
an interrupted run goes on and a table is free. MACs and latencies are those that ``benchmark.py --json`` measured for
configs of the same names. ``--macs`` counts MACs alone, on one blank picture: for methods whose cost does not depend on
the picture. ``--num`` scores on the first N pictures alone, for a quick look; the rows say so.
"""

import argparse
import copy
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis.loading import build_model, one_for_each, read_config
from mmtoken.analysis.rivals import FACTORS, smaller_size
from mmtoken.analysis.tables import judge_rows, read_latencies, table
from mmtoken.analysis.tasks import Metric
from mmtoken.analysis.variants import smaller_input
from mmtoken.engine.configs import check_datasets, first_pictures, load_config
from mmtoken.engine.digests import data_digest
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output, locked, read_json, read_rows, write_json, write_text
from mmtoken.engine.flags import check_apart, check_parts, check_positive

TOOLS = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', type=Path, help='config files, the dense baseline first')
    parser.add_argument('--checkpoint', required=True, nargs='+', help='one file for all, or one for each config')
    parser.add_argument('--out', required=True, type=Path, help='JSON file to write or to go on with')
    parser.add_argument('--metric', default='mIoU', help='the metric of the table (mIoU); the file holds all of them')
    parser.add_argument('--smaller-input', type=float, nargs='+', metavar='F', help='sides (0.8 0.65 0.5)')
    parser.add_argument('--no-smaller-input', action='store_true', help='leave the baseline on smaller pictures out')
    parser.add_argument('--macs', action='store_true', help='count the MACs of one blank picture, into --out')
    parser.add_argument('--num', type=int, help='score on the first so many pictures only, for a quick look')
    parser.add_argument('--benchmark', type=Path, nargs='+', default=[], help='JSON files of benchmark.py')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/results'), help='logs of the tests')
    args = parser.parse_args()
    check_parts(args, 'smaller_input')
    check_positive(args, 'num')
    check_apart(args, 'smaller_input', 'no_smaller_input', why='give one of them')
    args.factors = [] if args.no_smaller_input else args.smaller_input or FACTORS
    stems = [config.stem for config in args.configs]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise UserError(f'{twice[0]}: two configs have this name, by which rows are known; rename one')
    return args


def on_smaller(path: Path, cfg: Config, factors: Sequence[float], folder: Path) -> dict[str, tuple[Path, Config]]:
    """The baseline on smaller pictures, written as configs, by the names that ``benchmark.py`` gives them."""
    found = {}
    patch = getattr(build_model(read_config(path)).backbone, 'patch_size', 32) if factors else 0
    for factor in factors:
        small = copy.deepcopy(cfg)
        small.val_dataloader = small.test_dataloader
        small = smaller_input(small, factor, patch)
        small.test_dataloader = small.val_dataloader
        preprocessor = small.model.get('data_preprocessor') or {}
        if preprocessor.get('size'):
            preprocessor.size = smaller_size(preprocessor.size, factor, patch)
        file = folder / f'{path.stem}_x{factor:g}.py'
        write_text(file, small.dump())
        found[f'{path.stem}, ×{factor:g} input'] = file, small
    return found


def on_first(path: Path, cfg: Config, num: int, folder: Path) -> Path:
    """A config whose test set is its first pictures, written as a file; changes ``cfg`` to it."""
    first_pictures(cfg, 'test_dataloader', num)
    file = folder / f'{path.stem}_first{num}.py'
    write_text(file, cfg.dump())
    return file


def score(config: Path, checkpoint: str, work_dir: Path) -> dict:
    """Metrics of one run of ``tools/test.py``, as it wrote them into its log."""
    before = set(work_dir.glob('*/*.json'))
    command = [sys.executable, str(TOOLS / 'test.py'), str(config), checkpoint, '--work-dir', str(work_dir)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode:  # it has said why
        sys.exit(done.returncode)
    (log,) = set(work_dir.glob('*/*.json')) - before
    metrics = json.loads(log.read_text().splitlines()[-1])
    return {key: value for key, value in metrics.items() if key not in ('data_time', 'time')}


def name_of(checkpoint: Path) -> str:
    """A checkpoint's file name; that of its folder if a training named it after a step, which says nothing."""
    by_step = re.fullmatch(r'(best_.*_)?(iter|epoch)_\d+', checkpoint.stem)
    return f'{checkpoint.absolute().parent.name}.pth' if by_step else checkpoint.name


def count_macs(config: Path) -> int:
    """Multiply-adds of one blank picture of the config's size."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / 'macs.json'
        tool = TOOLS / 'analysis_tools/get_flops.py'
        command = [sys.executable, str(tool), str(config), '--shape', '--no-fvcore', '--json', str(out)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL)
        if done.returncode:  # it has said why
            sys.exit(done.returncode)
        return json.loads(out.read_text())['macs_mean']


def known_rows(path: Path) -> dict[str, dict]:
    """Rows of ``--out`` by the name of their config."""
    rows = read_rows(path, 'config')
    old = read_json(path, {})
    # older files name one checkpoint for all of their rows
    shared = {key: old.get(key) for key in ('checkpoint', 'weights')}
    return {row['config']: shared | row for row in rows}


def add_row(path: Path, row: dict) -> dict[str, dict]:
    """Writes a row beside those that are there, of another run that writes meanwhile too; returns all of them."""
    with locked(path):
        known = known_rows(path)
        known[row['config']] = row
        write_json(path, dict(command=' '.join(sys.argv), rows=list(known.values())))
    return known


@one_line_errors()
def main():
    args = parse_args()
    check_output('--out', args.out)
    checkpoints = one_for_each('--checkpoint', args.checkpoint, args.configs)
    configs = [load_config(str(config)) for config in args.configs]
    for flag, paths in (('--checkpoint', checkpoints), ('--benchmark', args.benchmark)):
        missing = [path for path in paths if not Path(path).is_file()]
        if missing:
            raise UserError(f'{flag}: file not found: {missing[0]}')
    known = known_rows(args.out)
    latencies = read_latencies(args.benchmark, [path.stem for path in args.configs])
    entries = {path.stem: (path, cfg, weights) for path, cfg, weights in zip(args.configs, configs, checkpoints)}
    for name, (path, cfg, weights) in entries.items() if args.num else ():
        entries[name] = on_first(path, cfg, args.num, args.work_dir), cfg, weights
    for name, (path, cfg) in on_smaller(args.configs[0], configs[0], args.factors, args.work_dir).items():
        entries[name] = path, cfg, checkpoints[0]
    digests = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12] for path in set(checkpoints)}
    for name, (path, cfg, checkpoint) in entries.items():
        weights = digests[checkpoint]
        digest = hashlib.sha256(cfg.pretty_text.encode()).hexdigest()[:12]
        row = known.get(name, {})
        fresh = (row.get('digest'), row.get('weights')) != (digest, weights)
        if fresh or 'data' in row:  # rows of older versions do not say what they were scored on, and stand
            check_datasets(cfg, ['test'])
            data = data_digest(cfg, 'test')
            fresh = fresh or row['data'] != data
        if fresh:
            metrics = score(path, checkpoint, args.work_dir / path.stem)
            about = dict(digest=digest, checkpoint=name_of(Path(checkpoint)), weights=weights, data=data)
            about |= dict(num=args.num) if args.num else {}
            row = known[name] = dict(config=name, **about, metrics=metrics)
        if count := args.macs and 'macs' not in row:
            row['macs'] = count_macs(path)
            row['mac_ratio'] = row['macs'] / known[args.configs[0].stem]['macs']
        if fresh or count:
            known = add_row(args.out, row)
        if args.metric not in row['metrics']:
            raise UserError(f'--metric {args.metric}: {name} has {", ".join(row["metrics"])}')
        print(name, row['metrics'], flush=True)
    rows = [known[name] for name in entries]
    metric = Metric.named(args.metric)
    judge_rows(rows, latencies, metric)
    for row in rows:
        if 'verdict' in row:
            add_row(args.out, row)
    print(table(rows, latencies, metric))


if __name__ == '__main__':
    main()
