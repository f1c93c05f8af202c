"""Time ONNX files against each other in ONNX Runtime, in turns.

    python tools/deployment/benchmark_onnx.py DENSE.onnx OTHER.onnx [...] [--int8] [--images DIR] [--batch N]
        [--threads N] [--json FILE]

The first file is the baseline. Files are those of export.py, which notes their MACs. Rows of files of another size,
such as the dense model on smaller pictures, get the same pictures resized. --int8 adds each file with int8 weights.
Label agreement is with the baseline, where both give class maps or labels of one size.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from mmtoken.analysis import environment
from mmtoken.analysis.latency import interleave, paired_ratio, spread
from mmtoken.analysis.loading import read_pictures
from mmtoken.analysis.report import markdown
from mmtoken.deployment import compare, quantize, session
from mmtoken.deployment.runtime import run
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output, write_text
from mmtoken.engine.flags import check_least


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('files', nargs='+', help='ONNX files, the baseline first')
    add('--int8', action='store_true', help='add each with int8 weights')
    add('--images', metavar='DIR', help='time on the pictures of this folder; without, on noise')
    add('--num', type=int, default=4, help='at most so many pictures (4)')
    add('--batch', type=int, default=1, help='pictures at once (1)')
    add('--threads', type=int, help='CPU threads')
    add('--rounds', type=int, default=20, help='samples of each, 5 or more (20)')
    add('--device', default='cpu', help='cpu, or cuda where ONNX Runtime is built for it')
    add('--json', metavar='FILE', help='write the numbers, every sample and the command to this file')
    args = parser.parse_args()
    check_least(args, num=1, batch=1, rounds=5, threads=1)
    return args


def open_files(args: argparse.Namespace, folder: str) -> dict:
    """Sessions by name."""
    found = {}
    for file in args.files:
        if not Path(file).is_file():
            raise UserError(f'{file}: no such file; make it with tools/deployment/export.py')
        if Path(file).stem in found:
            raise UserError(f'{file}: two files are named {Path(file).stem}; rename one')
        found[Path(file).stem] = session(file, args.device, args.threads)
        if args.int8:
            small = Path(folder) / f'{Path(file).stem}-int8.onnx'
            quantize(file, small)
            found[small.stem] = session(small, args.device, args.threads)
    return found


def pictures(args: argparse.Namespace, runner) -> tuple[torch.Tensor, str]:
    """Pictures ``(N, C, H, W)`` as the first file takes them, and what they are."""
    shape, about = runner.get_inputs()[0].shape, runner.get_modelmeta().custom_metadata_map
    if isinstance(shape[0], int) and shape[0] != args.batch:
        raise UserError(f'--batch {args.batch}: the graph takes {shape[0]}; export it with --dynamic batch')
    if not args.images:
        return torch.randn(args.batch, *shape[1:], generator=torch.manual_seed(0)), 'noise'
    mean, std = (json.loads(about.get(name, 'null')) for name in ('mean', 'std'))
    read = read_pictures(args.images, tuple(shape[2:]), max(args.num, args.batch))
    images = torch.stack([torch.from_numpy(one).permute(2, 0, 1).float() for one in read])
    if not about.get('input', '').startswith('pixels') and mean:
        images = (images.flip(1) - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    return images, f'{len(images)} pictures'


def measure(args: argparse.Namespace, runners: dict, images: torch.Tensor) -> list[dict]:
    """A row for each file."""
    batches = [batch for batch in images.split(args.batch) if len(batch) == args.batch]
    sized = {
        name: [F.interpolate(batch, runner.get_inputs()[0].shape[2:], mode='bilinear') for batch in batches]
        for name, runner in runners.items()
    }
    calls = {name: lambda n, name=name: run(runners[name], sized[name][n]) for name in runners}
    seconds = interleave(calls, args.rounds, 2, inputs=range(len(batches)))
    base, rows = next(iter(runners)), []
    macs = {name: int(one.get_modelmeta().custom_metadata_map.get('macs', 0)) for name, one in runners.items()}
    for name, runner in runners.items():
        row = dict(name=name, batch=args.batch, ms_per_image=spread([1000 * s / args.batch for s in seconds[name]]))
        row['speedup'] = paired_ratio(seconds[base], seconds[name])
        if macs[base] and macs[name]:
            ratio = macs[name] / macs[base]
            row.update(macs=macs[name], mac_ratio=ratio, efficiency=row['speedup']['ratio'] * ratio)
        outputs = [(run(runners[base], sized[base][n]), run(runner, sized[name][n])) for n in range(len(batches))]
        if all(a[0].shape == b[0].shape and len(a) == len(b) for a, b in outputs):
            found = [compare(*pair).get('agreement') for pair in outputs]
            row['agreement'] = None if None in found else sum(found) / len(found)
        rows.append(dict(row, seconds=seconds[name]))
    return rows


def table(rows: list[dict]) -> str:
    head = ['model', 'ms/image (p5-p95)', 'speed-up (95 %)', 'GMACs', 'MAC speed-up', 'speed-up ÷ MAC speed-up']
    lines = []
    for row in rows:
        ms, speedup, agreement = row['ms_per_image'], row['speedup'], row.get('agreement')
        lines.append(
            [
                row['name'],
                f'{ms["median"]:.1f} ({ms["p5"]:.1f}-{ms["p95"]:.1f})',
                f'{speedup["ratio"]:.2f} ({speedup["low"]:.2f}-{speedup["high"]:.2f})',
                f'{row["macs"] / 1e9:.2f}' if 'macs' in row else '',
                f'{1 / row["mac_ratio"]:.2f}' if 'macs' in row else '',
                f'{row["efficiency"]:.2f}' if 'macs' in row else '',
                '' if agreement is None else f'{agreement:.2%}',
            ]
        )
    return markdown([*head, 'equal labels'], lines)


@one_line_errors()
def main():
    args = parse_args()
    check_output('--json', args.json)
    with tempfile.TemporaryDirectory() as folder:
        runners = open_files(args, folder)
        images, what = pictures(args, next(iter(runners.values())))
        about = dict(environment(args.device), batch=args.batch, inputs=what, rounds=args.rounds)
        about['threads'] = args.threads or about['threads']
        print(', '.join(f'{key}: {value}' for key, value in about.items() if key != 'versions'))
        rows = measure(args, runners, images)
    print(table(rows))
    if args.json:
        write_text(args.json, json.dumps(dict(command=sys.argv, **about, rows=rows), indent=1) + '\n')


if __name__ == '__main__':
    main()
