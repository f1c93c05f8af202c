"""Time models against each other, in turns, beside the multiply-adds that they save.

    python tools/analysis_tools/benchmark.py BASELINE.py [OTHER.py ...] [--stock] [--shape H W] [--batch 1 4]
        [--images DIR] [--train] [--breakeven [SIDE ...]] [--amp bf16] [--compile] [--cuda-graph] [--json FILE]

The first config is the baseline: give the dense host, whose attention is fused like that of the accelerated ones.
--stock adds what upstream makes of it as a reference. Timed is what happens to normalised images at test time
(backbone, neck and heads through to the class maps or boxes; one crop where the model slides), or with --train a
training step on made-up labels; reading and normalising pictures is not. Where pictures differ in cost each is timed
equally often, and the speed-up is that of all together, as their mean MACs are. Pictures are those of --images, else
of the baseline's test set if it is there, else noise, which is no input for methods that look at the picture.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis import environment, loading
from mmtoken.analysis.benchmark import Bench, break_even_points, ladder
from mmtoken.analysis.flops import cost_varies
from mmtoken.analysis.report import latency_table, operator_line, run_lengths
from mmtoken.engine.devices import check_device
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', help='config files, the baseline first')
    parser.add_argument('--stock', action='store_true', help='add the upstream class of the baseline, as a reference')
    parser.add_argument('--shape', type=int, nargs='+', help="image size H W (the baseline config's)")
    parser.add_argument('--batch', type=int, nargs='+', help='batch sizes (1; 2 with --train)')
    parser.add_argument('--checkpoint', nargs='+', help='weights, one file for all or one for each; without, random')
    parser.add_argument('--images', metavar='DIR', help='time on the pictures of this folder')
    parser.add_argument('--num', type=int, default=8, help='at most so many pictures (8)')
    parser.add_argument('--train', action='store_true', help='time a training step: forward, backward, optimizer')
    parser.add_argument(
        '--breakeven',
        type=int,
        nargs='*',
        metavar='SIDE',
        help='sweep the image height (a quarter to 1.5 of --shape) for where a method starts to win',
    )
    parser.add_argument('--amp', choices=['fp16', 'bf16'], help='autocast')
    parser.add_argument('--compile', action='store_true', help='torch.compile all of them')
    parser.add_argument('--cuda-graph', action='store_true', help='replay each as a CUDA graph')
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument('--rounds', type=int, default=20, help='samples of each, 5 or more (20)')
    parser.add_argument('--warmup', type=int, default=3, help='untimed runs of each beforehand, 1 or more (3)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--json', metavar='FILE', help='write the numbers, every sample and the command to this file')
    args = parser.parse_args()
    args.batch = args.batch or [2 if args.train else 1]
    for flag, value, least in (
        ('rounds', args.rounds, 5),
        ('warmup', args.warmup, 1),
        ('num', args.num, 1),
        ('batch', min(args.batch), 1),
        ('threads', args.threads or 1, 1),
    ):
        if value < least:
            parser.error(f'--{flag} {value}: give {least} or more')
    return args


def build(args: argparse.Namespace) -> tuple[dict, dict]:
    """Configs and models by name, the baseline first."""
    configs, models = {}, {}

    def add(name: str, cfg: Config, weights: str | None) -> None:
        while name in configs:
            name += "'"
        configs[name], models[name] = cfg, loading.build_model(cfg, weights)

    for path, weights in zip(args.configs, loading.one_for_each('--checkpoint', args.checkpoint, args.configs)):
        add(Path(path).stem, loading.read_config(path), weights)
    if args.stock:
        base = next(iter(configs))
        stock = loading.stock_config(configs[base], models[base])
        if stock is None:
            raise UserError('--stock: upstream has no class behind the backbone of the first config.')
        add('stock', stock, args.checkpoint and args.checkpoint[0])
    return configs, {name: model.to(args.device) for name, model in models.items()}


def pictures(args: argparse.Namespace, cfg, models: dict, shape: tuple[int, int]) -> tuple[torch.Tensor, str]:
    """Normalised images ``(N, 3, H, W)``, and what they are."""
    source = args.images
    if source is None:
        try:
            source = loading.dataset_pictures(cfg, 'give --images DIR')
        except UserError:
            if any(map(cost_varies, models.values())):
                raise
            return torch.randn(max(args.batch), 3, *shape, generator=torch.manual_seed(0)).to(args.device), 'noise'
    images = loading.read_images(next(iter(models.values())), source, shape, args.num).to(args.device)
    return images, f'{len(images)} pictures' + ('' if args.images else ' of the test set')


@one_line_errors()
def main():
    args = parse_args()
    check_device(args.device)
    check_output('--json', args.json)
    if args.threads:
        torch.set_num_threads(args.threads)
    configs, models = build(args)
    baseline = next(iter(models))
    shape = loading.image_shape(configs[baseline], args.shape)
    images, what = pictures(args, configs[baseline], models, shape)
    optimizers = {name: cfg.get('optim_wrapper') or {} for name, cfg in configs.items()} if args.train else None
    bench = Bench(models, args.device, args.amp, args.compile, args.cuda_graph, optimizers)
    patch = getattr(getattr(models[baseline], 'backbone', None), 'patch_size', 32)
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
    rounds = {batch: bench.rounds(images, batch, args.rounds) for batch in args.batch}
    for batch in (batch for batch, number in rounds.items() if number != args.rounds):
        print(f'batch {batch}: {rounds[batch]} rounds: pictures differ in cost, and each is to come equally often')
    bar = Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
    )  # no thread beside the samples
    rows, tokens, missed = [], {}, {}
    with bar:
        task = bar.add_task('', total=len(shapes) * len(models) * sum(n + args.warmup for n in rounds.values()))
        for size in shapes:
            sized = images if size == shape else F.interpolate(images, size, mode='bilinear', antialias=True)
            costs = bench.costs(sized)
            if size == shape or not tokens:
                tokens = {name: cost.tokens for name, cost in costs.items() if cost.tokens}
            missed |= {name: seen for cost in costs.values() for name, seen in cost.missed.items()}
            for batch in args.batch:
                bar.update(task, description=f'{size[0]}x{size[1]}, batch {batch}')
                measured = bench.measure(
                    sized, batch, rounds[batch], args.warmup, costs, lambda: (bar.advance(task), bar.refresh())
                )
                rows += [dict(row, shape=list(size), tokens=size[0] * size[1] // patch**2) for row in measured]
    print(latency_table(rows, sweep=args.breakeven is not None))
    points = break_even_points(rows, baseline) if args.breakeven is not None else []
    for point in points:
        print(point['text'])
    for name, counts in tokens.items():
        print(f'tokens in each block, {name}: {run_lengths([f"{round(count, 1):g}" for count in counts])}')
    if args.json:
        out = dict(command=sys.argv, **about, tokens=tokens, rows=rows)
        Path(args.json).write_text(json.dumps(out | (dict(break_even=points) if points else {}), indent=1) + '\n')
    if missed:
        print(f'MACs are too low, no formula for {operator_line(missed)}; see get_flops.py', file=sys.stderr)


if __name__ == '__main__':
    main()
