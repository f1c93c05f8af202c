"""How far do features in half precision lie from those in fp32?

    python tools/misc/half_precision.py CONFIG [CONFIG ...] [--checkpoint CKPT [...]] --images DIR --out FILE.json

For each config and picture: ``100·‖half − fp32‖ / ‖fp32‖`` of the last feature map of the backbone under autocast, its
median and its largest; and in what part of the pixels the prediction of a segmentor stays the same. A method that
decides which tokens go together may decide otherwise in half precision, which the dense model cannot.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis import environment
from mmtoken.analysis.benchmark import DTYPES
from mmtoken.analysis.flops import inference_path
from mmtoken.analysis.loading import build_models, image_shape, read_images
from mmtoken.analysis.report import markdown
from mmtoken.engine.devices import check_device
from mmtoken.engine.errors import one_line_errors
from mmtoken.engine.files import check_output, write_json
from mmtoken.engine.flags import check_positive
from mmtoken.models.distill import last_map


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', help='config files, the dense model first')
    parser.add_argument('--checkpoint', nargs='+', help='weights, one file for all or one for each; without, random')
    parser.add_argument('--images', required=True, metavar='DIR', help='folder of pictures')
    parser.add_argument('--num', type=int, default=16, help='at most so many pictures, spread over them (16)')
    parser.add_argument('--amp', choices=list(DTYPES), default='bf16', help='precision (bf16)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', required=True, type=Path, help='JSON file to write')
    args = parser.parse_args()
    check_positive(args, 'num')
    return args


@torch.no_grad()
def difference(model: nn.Module, image: Tensor, dtype: torch.dtype) -> tuple[float, float]:
    """Compares half precision with fp32 on an image ``(1, C, H, W)``.

    Returns:
        tuple[float, float]: Relative difference of the last feature map, and the part of pixels that get the same
        label, both in percent.
    """
    maps, labels = [], []
    hook = model.backbone.register_forward_hook(lambda module, args, out: maps.append(last_map(out).float()))
    for half in (False, True):
        with torch.autocast(image.device.type, dtype, enabled=half):
            labels.append(inference_path(model)(image).argmax(1))
    hook.remove()
    full, other = maps
    return float(100 * (other - full).norm() / full.norm()), float(100 * (labels[0] == labels[1]).float().mean())


@one_line_errors()
def main():
    args = parse_args()
    check_device(args.device)
    check_output('--out', args.out)
    configs, models = build_models(args.configs, args.checkpoint, False, args.device)
    first, rows = next(iter(models)), []
    images = read_images(models[first], args.images, image_shape(configs[first]), args.num, configs[first])
    for name, model in models.items():
        pairs = [difference(model, image.to(args.device), DTYPES[args.amp]) for image in images.split(1)]
        found, same = zip(*pairs)
        rows.append(
            {
                'config': name,
                'median (%)': statistics.median(found),
                'largest (%)': max(found),
                'same label (%)': statistics.mean(same),
                'by picture (%)': found,
            }
        )
        print(f'{name}: {rows[-1]["median (%)"]:.2f} % ({max(found):.2f})', flush=True)
    about = dict(command=' '.join(sys.argv), precision=args.amp, pictures=len(images), **environment(args.device))
    write_json(args.out, dict(about, rows=rows))
    head = ['config', 'median (%)', 'largest (%)', 'same label (%)']
    print(markdown(head, [[row['config'], *(f'{row[key]:.2f}' for key in head[1:])] for row in rows]))


if __name__ == '__main__':
    main()
