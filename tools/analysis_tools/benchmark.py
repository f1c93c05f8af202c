"""Time models against each other, in turns, beside the multiply-adds that they save.

    python tools/analysis_tools/benchmark.py BASELINE.py [OTHER.py ...] [--stock] [--shape H W] [--batch 1 4]
        [--images DIR] [--train] [--breakeven [SIDE ...]] [--amp bf16] [--compile] [--cuda-graph] [--json FILE]

The first config is the baseline: give the dense host, whose attention is fused like that of the accelerated ones.
--stock adds what upstream makes of it as a reference; beside the methods stands their first rival, the baseline on
smaller pictures (not with --train or --breakeven). Timed is what happens to normalised images at test time
(backbone, neck and heads through to the class maps or boxes; one crop where the model slides), or with --train a
training step on made-up labels; reading and normalising pictures is not. Where pictures differ in cost each is timed
equally often, and the speed-up is that of all together, as their mean MACs are. Pictures are those of --images, else
of the baseline's test set if it is there, else noise, which is no input for methods that look at the picture.
"""

import argparse
import sys

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis import environment, loading
from mmtoken.analysis.benchmark import Bench, break_even_points, ladder
from mmtoken.analysis.report import latency_table, operator_line, run_lengths
from mmtoken.analysis.rivals import FACTORS
from mmtoken.engine.devices import check_device
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output, write_json
from mmtoken.engine.flags import check_apart, check_least, check_parts


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('configs', nargs='+', help='config files, the baseline first')
    add('--stock', action='store_true', help='add the upstream class of the baseline, as a reference')
    add('--smaller-input', type=float, nargs='+', metavar='F', help='sides of smaller pictures (0.8 0.65 0.5)')
    add('--no-smaller-input', action='store_true', help='leave the baseline on smaller pictures out')
    add('--shape', type=int, nargs='+', help="image size H W (the baseline config's)")
    add('--batch', type=int, nargs='+', help='batch sizes (1; 2 with --train)')
    add('--checkpoint', nargs='+', help='weights, one file for all or one for each; without, random')
    add('--images', metavar='DIR', help='time on the pictures of this folder')
    add('--num', type=int, help='at most so many pictures (8)')
    add('--train', action='store_true', help='time a training step: forward, backward, optimizer')
    sweep = 'sweep the image height (a quarter to 1.5 of --shape) for where a method starts to win'
    add('--breakeven', type=int, nargs='*', metavar='SIDE', help=sweep)
    add('--amp', choices=['fp16', 'bf16'], help='autocast')
    add('--compile', action='store_true', help='torch.compile all of them')
    add('--cuda-graph', action='store_true', help='replay each as a CUDA graph')
    add('--threads', type=int, help='CPU threads')
    add('--rounds', type=int, default=20, help='samples of each, 5 or more (20)')
    add('--warmup', type=int, default=3, help='untimed runs of each beforehand, 1 or more (3)')
    add('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    add('--json', metavar='FILE', help='write the numbers, every sample and the command to this file')
    args = parser.parse_args()
    check_least(args, rounds=5, warmup=1, num=1, batch=1, threads=1, shape=1, breakeven=1)
    check_parts(args, 'smaller_input')
    check_apart(args, 'smaller_input', 'no_smaller_input', why='give one of them')
    if args.breakeven is not None and len(args.configs) == 1 and not (args.stock or args.smaller_input):
        raise UserError('--breakeven: there is nothing to compare the baseline with; name a second config')
    args.batch = args.batch or [2 if args.train else 1]
    # a sweep over sizes and a training step have no use for the rival
    left_out = args.no_smaller_input or args.breakeven is not None or args.train
    args.factors = args.smaller_input or ([] if left_out else FACTORS)
    return args


def measure(args: argparse.Namespace, bench: Bench, images: torch.Tensor, shapes: list) -> tuple[list, dict, dict]:
    """Rows, the tokens in each block by model, and the products that have no formula."""
    rounds = {batch: bench.rounds(images, batch, args.rounds) for batch in args.batch}
    for batch in (batch for batch, number in rounds.items() if number != args.rounds):
        print(f'batch {batch}: {rounds[batch]} rounds: pictures differ in cost, and each is to come equally often')
    columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # no thread beside the samples
    bar = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
    rows, tokens, missed = [], {}, {}
    with bar:
        calls = sum(n + args.warmup for n in rounds.values())
        task = bar.add_task('', total=len(shapes) * len(bench.models) * calls)
        for size in shapes:
            same = size == tuple(images.shape[2:])
            sized = images if same else F.interpolate(images, size, mode='bilinear', antialias=True)
            costs = bench.costs(sized)
            if same or not tokens:
                tokens = {name: cost.tokens for name, cost in costs.items() if cost.tokens}
            missed |= {name: seen for cost in costs.values() for name, seen in cost.missed.items()}
            for batch in args.batch:
                bar.update(task, description=f'{size[0]}x{size[1]}, batch {batch}')
                progress = lambda: (bar.advance(task), bar.refresh())  # noqa: E731
                measured = bench.measure(sized, batch, rounds[batch], args.warmup, costs, progress)
                rows += [dict(row, shape=list(size), tokens=size[0] * size[1] // bench.patch**2) for row in measured]
    return rows, tokens, missed


@one_line_errors()
def main():
    args = parse_args()
    check_device(args.device)
    check_output('--json', args.json)
    if args.threads:
        torch.set_num_threads(args.threads)
    configs, models = loading.build_models(args.configs, args.checkpoint, args.stock, args.device, args.train)
    baseline = next(iter(models))
    shape = loading.image_shape(configs[baseline], args.shape)
    num = args.num or 8
    images, what = loading.timing_pictures(models, configs[baseline], args.images, shape, num, max(args.batch))
    if args.num and what == 'noise':
        raise UserError(f'--num {args.num}: there are no pictures, only noise; give --images DIR, or leave --num out')
    optimizers = {name: cfg.get('optim_wrapper') or {} for name, cfg in configs.items()} if args.train else None
    patch = getattr(getattr(models[baseline], 'backbone', None), 'patch_size', 32)
    bench = Bench(models, args.device, args.amp, args.compile, args.cuda_graph, optimizers, patch)
    bench.add_smaller(args.factors, images, print)
    shapes = [shape] if args.breakeven is None else ladder(shape, patch, args.breakeven)
    about = dict(
        environment(args.device),
        precision=args.amp or 'fp32',
        compile=args.compile,
        cuda_graph=args.cuda_graph,
        timed='training step' if args.train else 'prediction',
        shape=list(shape),
        inputs=what,
        weights=' '.join(args.checkpoint or ['random']),
        rounds=args.rounds,
    )
    print(', '.join(f'{key}: {value}' for key, value in about.items() if key != 'versions'))

    rows, tokens, missed = measure(args, bench, images, shapes)

    print(latency_table(rows, sweep=args.breakeven is not None))
    points = break_even_points(rows, baseline) if args.breakeven is not None else []
    for point in points:
        print(point['text'])
    for name, counts in tokens.items():
        print(f'tokens in each block, {name}: {run_lengths([f"{round(count, 1):g}" for count in counts])}')
    if args.json:
        out = dict(command=sys.argv, **about, tokens=tokens, rows=rows)
        write_json(args.json, out | (dict(break_even=points) if points else {}))
    if missed:
        print(f'MACs are too low, no formula for {operator_line(missed)}; see get_flops.py', file=sys.stderr)


if __name__ == '__main__':
    main()
