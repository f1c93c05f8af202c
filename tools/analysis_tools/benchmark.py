"""Time models against each other, in turns, beside the multiply-adds that they save.

    python tools/analysis_tools/benchmark.py BASELINE.py [OTHER.py ...] [--shape H W] [--batch 1 4] [--images DIR]

The first config is the baseline: give the dense host, whose attention is fused like that of the accelerated ones.
--stock adds what upstream makes of it as a reference. Timed is what happens to normalised images at test time
(backbone, neck, decode head, resize of the class maps); reading and normalising pictures is not.
"""

import argparse
import itertools
import json
import statistics
import sys
from pathlib import Path

import torch

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis import environment, inference_path, interleave, paired_ratio, segmentor_macs, spread
from mmtoken.analysis.loading import build_model, image_shape, read_config, read_images, stock_config
from mmtoken.engine.checks import UserError, one_line_errors

HEAD = ('model', 'batch', 'ms/image (p10-p90)', 'speed-up (95 %)', 'GMACs', 'MAC ratio', 'speed-up ÷ MAC speed-up')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', help='config files, the baseline first')
    parser.add_argument('--shape', type=int, nargs='+', help="image size H W (the baseline config's)")
    parser.add_argument('--batch', type=int, nargs='+', default=[1], help='batch sizes (1)')
    parser.add_argument('--checkpoint', help='weights for all of them; without, they are random')
    parser.add_argument('--images', metavar='DIR', help='time on the pictures of this folder instead of noise')
    parser.add_argument('--num', type=int, default=8, help='at most so many pictures (8)')
    parser.add_argument('--amp', choices=['fp16', 'bf16'], help='autocast')
    parser.add_argument('--compile', action='store_true', help='torch.compile all of them')
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument('--rounds', type=int, default=20, help='samples of each (20)')
    parser.add_argument('--warmup', type=int, default=3, help='untimed runs of each beforehand (3)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--stock', action='store_true', help='add the upstream class of the baseline, as a reference')
    parser.add_argument('--json', metavar='FILE', help='write the numbers, every sample and the command to this file')
    return parser.parse_args()


def build(args: argparse.Namespace) -> tuple[dict, tuple[int, int]]:
    """Models by name, the baseline first, and the image size."""
    base = read_config(args.configs[0])
    models = {}
    for path in args.configs:
        name = Path(path).stem
        while name in models:
            name += "'"
        models[name] = build_model(read_config(path), args.checkpoint)
    if args.stock:
        stock = stock_config(base, next(iter(models.values())))
        if stock is None:
            raise UserError('--stock: upstream has no class behind the backbone of the first config.')
        models['stock'] = build_model(stock, args.checkpoint)
    return models, image_shape(base, args.shape)


def timed(model: torch.nn.Module, args: argparse.Namespace):
    """The model's way at test time as one call of a batch."""
    path = torch.compile(inference_path(model)) if args.compile else inference_path(model)
    dtype = dict(fp16=torch.float16, bf16=torch.bfloat16).get(args.amp)

    def call(images: torch.Tensor):
        with torch.no_grad(), torch.autocast(torch.device(args.device).type, dtype, enabled=dtype is not None):
            return path(images)

    return call


def run_lengths(counts: list) -> str:
    """``[8, 8, 4]`` -> ``8 x2, 4``."""
    runs = [(count, len(list(run))) for count, run in itertools.groupby(round(c) for c in counts)]
    return ', '.join(f'{count} x{times}' if times > 1 else str(count) for count, times in runs)


@one_line_errors()
def main():
    args = parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    models, shape = build(args)
    baseline = next(iter(models))
    torch.manual_seed(0)
    images = read_images(models[baseline], args.images, shape, args.num) if args.images else \
        torch.randn(max(args.batch), 3, *shape)
    images = images.to(args.device)

    macs, tokens = {}, {}
    for name, model in models.items():
        model.to(args.device)
        dynamic = any(getattr(module, 'dynamic', False) for module in model.modules())
        singles = images.split(1) if dynamic else images[:1].split(1)
        macs[name] = statistics.mean(segmentor_macs(model, one).total for one in singles)
        count = getattr(getattr(model, 'backbone', model), 'token_counts', None)
        if count:
            tokens[name] = [statistics.mean(block) for block in zip(*(count(one) for one in singles))]

    about = dict(environment(args.device), precision=args.amp or 'fp32', compile=args.compile, shape=list(shape),
                 inputs=f'{len(images)} pictures' if args.images else 'noise', weights=args.checkpoint or 'random',
                 rounds=args.rounds)
    print(', '.join(f'{key}: {value}' for key, value in about.items()))
    print('| ' + ' | '.join(HEAD) + ' |\n|' + '---|' * len(HEAD))
    rows = []
    for batch in args.batch:
        order = torch.arange(-(-len(images) // batch) * batch) % len(images)
        calls = {name: timed(model, args) for name, model in models.items()}
        seconds = interleave(calls, args.rounds, args.warmup, inputs=images[order].split(batch), device=args.device)
        for name, samples in seconds.items():
            ms = {key: value * 1000 / batch for key, value in spread(samples).items()}
            speedup, saved = paired_ratio(seconds[baseline], samples), macs[baseline] / macs[name]
            rows.append(dict(name=name, batch=batch, ms_per_image=ms, speedup=speedup, macs=macs[name],
                             mac_ratio=1 / saved, efficiency=speedup['ratio'] / saved, seconds=samples))
            print(f'| {name} | {batch} | {ms["median"]:.1f} ({ms["p10"]:.1f}-{ms["p90"]:.1f}) | {speedup["ratio"]:.2f} '
                  f'({speedup["low"]:.2f}-{speedup["high"]:.2f}) | {macs[name] / 1e9:.2f} | {1 / saved:.3f} | '
                  f'{speedup["ratio"] / saved:.2f} |')
    for name, counts in tokens.items():
        print(f'tokens in each block, {name}: {run_lengths(counts)}')
    if args.json:
        Path(args.json).write_text(json.dumps(dict(command=sys.argv, **about, tokens=tokens, rows=rows), indent=1))


if __name__ == '__main__':
    main()
