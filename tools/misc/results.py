"""Accuracy and cost of several configs, as JSON and as the table of a README.

    python tools/misc/results.py CONFIG [CONFIG ...] --checkpoint CKPT [...] --out FILE.json [--benchmark BENCH.json]

The first config is the dense baseline. Each is scored by ``tools/test.py``; what is already in ``--out`` for the same
checkpoint and the same config text is not run again, so an interrupted run goes on and a table is free. MACs and
latencies are those that ``tools/analysis_tools/benchmark.py --json`` measured for configs of the same names.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis.loading import one_for_each
from mmtoken.engine.configs import load_config
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output, read_json, write_text

TEST = Path(__file__).resolve().parents[1] / 'test.py'
HEAD = ('config', 'mIoU', 'Δ', 'GMACs', 'MACs ×', 'ms, batch {0}', 'speed-up, batch {0}', 'speed-up ÷ MAC speed-up')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', type=Path, help='config files, the dense baseline first')
    parser.add_argument('--checkpoint', required=True, nargs='+', help='one file for all, or one for each config')
    parser.add_argument('--out', required=True, type=Path, help='JSON file to write or to go on with')
    parser.add_argument('--benchmark', type=Path, nargs='*', default=[], help='JSON files of benchmark.py')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/results'), help='logs of the tests')
    return parser.parse_args()


def score(config: Path, checkpoint: str, work_dir: Path) -> dict:
    """Metrics of one run of ``tools/test.py``, as it wrote them into its log."""
    before = set(work_dir.glob('*/*.json'))
    command = [sys.executable, str(TEST), str(config), checkpoint, '--work-dir', str(work_dir)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL)
    if done.returncode:  # it has said why
        sys.exit(done.returncode)
    (log,) = set(work_dir.glob('*/*.json')) - before
    metrics = json.loads(log.read_text().splitlines()[-1])
    return {key: value for key, value in metrics.items() if key not in ('data_time', 'time')}


def table(rows: list, latencies: dict) -> str:
    """Markdown, a row a config, the baseline first."""
    batches = sorted({batch for _, batch in latencies}) or [1]
    head = list(HEAD[:5]) + [cell.format(batch) for batch in batches for cell in HEAD[5:]]
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    base = rows[0]['metrics']['mIoU']
    for row in rows:
        miou = row['metrics']['mIoU']
        cells = [row['config'], f'{miou:.2f}', f'{miou - base:+.2f}']
        cost = next((latencies[row['config'], batch] for batch in batches if (row['config'], batch) in latencies), None)
        cells += [f'{cost["macs"] / 1e9:.1f}', f'{cost["mac_ratio"]:.2f}'] if cost else ['', '']
        for batch in batches:
            cost = latencies.get((row['config'], batch))
            cells += (
                [
                    f'{cost["ms_per_image"]["median"]:.0f}',
                    f'{cost["speedup"]["ratio"]:.2f}',
                    f'{cost["efficiency"]:.2f}',
                ]
                if cost
                else ['', '', '']
            )
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def read_latencies(paths: list) -> dict:
    """Rows of ``benchmark.py --json`` by name and batch size; those of later files go first."""
    latencies = {}
    for path in paths:
        for row in read_json(path)['rows']:
            key = row['name'], row['batch']
            if latencies.get(key, row).get('shape') != row.get('shape'):
                raise UserError(
                    f'--benchmark {path}: {row["name"]} was timed at several sizes, of which a table shows '
                    'one; give files of one size, without --breakeven'
                )
            latencies[key] = row
    return latencies


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
    latencies = read_latencies(args.benchmark)
    old = read_json(args.out, {})
    # older files name one checkpoint for all of their rows
    shared = {key: old.get(key) for key in ('checkpoint', 'weights')}
    known = {row['config']: shared | row for row in old.get('rows', [])}
    for config, cfg, checkpoint in zip(args.configs, configs, checkpoints):
        weights = hashlib.sha256(Path(checkpoint).read_bytes()).hexdigest()[:12]
        digest = hashlib.sha256(cfg.pretty_text.encode()).hexdigest()[:12]
        row = known.get(config.stem, {})
        if (row.get('digest'), row.get('weights')) != (digest, weights):
            metrics = score(config, checkpoint, args.work_dir / config.stem)
            known[config.stem] = dict(
                config=config.stem, digest=digest, checkpoint=Path(checkpoint).name, weights=weights, metrics=metrics
            )
            result = dict(command=' '.join(sys.argv), rows=list(known.values()))
            write_text(args.out, json.dumps(result, indent=1) + '\n')
        print(config.stem, known[config.stem]['metrics'], flush=True)
    print(table([known[config.stem] for config in args.configs], latencies))


if __name__ == '__main__':
    main()
