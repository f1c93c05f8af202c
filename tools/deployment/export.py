"""Write a model as an ONNX file, and hold it against PyTorch in ONNX Runtime.

    python tools/deployment/export.py CONFIG CHECKPOINT --out model.onnx [--output raw|logits|softmax|labels] [--pixels]
        [--dynamic batch] [--shape H W] [--fp16] [--images DIR]

The graph takes normalised pictures (B, C, H, W) of one size, or with --pixels what the config's pipeline reads, 0 to
255. It gives what the head gives (raw), or of segmentors maps at the size of the picture. Detectors give raw outputs:
scores and box offsets by level; two-stage ones the pyramid and their proposals'. What only training needs is dropped.
Printed are the difference to PyTorch on pictures of --images, else of the test set, else on noise, and the operators.

Exit code: 1 if ONNX Runtime differs from PyTorch by more than --tolerance, or an operator is in the graph that
TensorRT refuses; 2 for bad input.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from mmengine.config import Config

import mmtoken  # before any config is read
from mmtoken.analysis.flops import image_channels, segmentor_macs
from mmtoken.analysis.loading import (
    build_model,
    class_colors,
    dataset_pictures,
    image_shape,
    read_config,
    read_images,
)
from mmtoken.deployment import OUTPUTS, Servable, compare, export_onnx, forbidden_operators, operators, session
from mmtoken.deployment.onnx import need
from mmtoken.deployment.runtime import run
from mmtoken.engine.configs import CfgOptions
from mmtoken.engine.devices import check_device
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output
from mmtoken.engine.flags import check_least


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('config', help='config file, or mmseg::… or mmdet::…')
    add('checkpoint', nargs='?', help='weights; without, they are random')
    add('--out', required=True, metavar='FILE', help='ONNX file to write')
    add('--output', choices=OUTPUTS, default='raw', help='what comes out (raw)')
    add('--pixels', action='store_true', help='normalise inside the graph')
    add('--dynamic', choices=['batch'], help='leave the number of pictures open')
    add('--shape', type=int, nargs='+', help="image size H W (the config's)")
    add('--opset', type=int, default=20, help='version of the ONNX operators (20)')
    add('--fp16', action='store_true', help='half precision, inputs and outputs too')
    add('--images', metavar='DIR', help='compare on the pictures of this folder')
    add('--num', type=int, default=4, help='at most so many pictures (4)')
    add('--tolerance', type=float, help='largest relative difference (1e-3, 3e-2 with --fp16)')
    add('--device', default='cpu', help='where PyTorch and ONNX Runtime run (cpu)')
    add('--cfg-options', nargs='+', action=CfgOptions, help='override settings of the config')
    args = parser.parse_args()
    check_least(args, num=1, shape=1, tolerance=0)
    args.tolerance = args.tolerance if args.tolerance is not None else 3e-2 if args.fp16 else 1e-3
    return args


def notes(cfg: Config, args: argparse.Namespace, model: torch.nn.Module, shape: tuple[int, int]) -> dict[str, str]:
    """What a reader of the file needs to know, as text."""
    prepare = getattr(model, 'data_preprocessor', None)
    blank = torch.zeros(1, image_channels(model), *shape, device=next(model.parameters()).device)
    known = dict(
        mmtoken=mmtoken.__version__,
        config=Path(args.config).name,
        reducer=cfg.model.get('backbone', {}).get('reducer'),
        input='pixels as the pipeline reads them, 0 to 255' if args.pixels else 'normalised pictures, RGB',
        output=args.output,
        macs=segmentor_macs(model, blank).total,
    )
    for name in ('mean', 'std'):
        value = getattr(prepare, name, None)
        known[name] = None if value is None else value.flatten().tolist()
    number = getattr(getattr(model, 'decode_head', None), 'num_classes', None)
    if number:
        known['classes'], known['palette'] = class_colors(cfg, args.checkpoint, number)
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}


def pictures(
    args: argparse.Namespace, cfg: Config, model: torch.nn.Module, shape: tuple[int, int]
) -> tuple[torch.Tensor, str]:
    """Normalised pictures ``(N, C, H, W)`` to compare on, and what they are."""
    source = args.images
    if source is None:
        try:
            source = dataset_pictures(cfg, '')
        except UserError:  # the test set is not here
            generator = torch.manual_seed(0)
            return torch.randn(args.num, image_channels(model), *shape, generator=generator), 'images of noise'
    images = read_images(model, source, shape, args.num, cfg)
    return images, 'pictures' + ('' if args.images else ' of the test set')


@one_line_errors()
def main():
    args = parse_args()
    check_device(args.device)
    check_output('--out', args.out)
    for package in ('onnx', 'onnxscript', 'onnxruntime'):
        need(package)
    cfg = read_config(args.config, args.cfg_options)
    shape = image_shape(cfg, args.shape)
    model = build_model(cfg, args.checkpoint).to(args.device)
    servable = Servable(model, args.output, args.pixels).eval()
    metadata = notes(cfg, args, model, shape)
    images, what = pictures(args, cfg, model, shape)
    images = images.to(args.device)
    if args.pixels:
        mean, std = (getattr(model.data_preprocessor, name, 0) for name in ('mean', 'std'))
        images = images * std + mean if getattr(model.data_preprocessor, '_enable_normalize', False) else images
    if args.fp16:
        servable, images = servable.half(), images.half()

    export_onnx(servable, images[:1], args.out, args.opset, args.dynamic == 'batch', metadata)

    runner = session(args.out, args.device)
    worst: dict[str, float] = {}
    for batch in images.split(len(images) if args.dynamic else 1):
        with torch.no_grad():
            expected = [out.cpu() for out in servable(batch)]
        for name, value in compare(expected, run(runner, batch.cpu())).items():
            worst[name] = (min if name == 'agreement' else max)(value, worst.get(name, value))
    size = Path(args.out).stat().st_size / 2**20
    print(f'{args.out}: {size:.1f} MiB, opset {args.opset}, {shape[0]}x{shape[1]}, {args.dynamic or "one picture"}')
    print(f'Operators: {", ".join(f"{name} {count}" for name, count in operators(args.out).items())}')
    print(
        f'ONNX Runtime against PyTorch on {len(images)} {what}: largest difference {worst["difference"]:.2e}, '
        f'relative {worst["relative"]:.2e}'
        + (f', equal labels {worst["agreement"]:.2%}' if 'agreement' in worst else '')
    )
    bad = forbidden_operators(args.out)
    if bad:
        print(f'TensorRT refuses {", ".join(bad)}', file=sys.stderr)
    if worst['relative'] > args.tolerance:
        print(f'The difference is above --tolerance {args.tolerance:g}', file=sys.stderr)
    if bad or worst['relative'] > args.tolerance:
        sys.exit(1)


if __name__ == '__main__':
    main()
