"""Count the multiply-adds of a model, part by part, fused attention included.

    python tools/analysis_tools/get_flops.py CONFIG [--shape H W] [--images DIR --num N] [--json FILE]

Without pictures the model runs on torch's meta device where it can: nothing is computed. Methods whose token count
depends on the picture need --images, and should have --checkpoint.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from mmengine.config import DictAction

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis import CONVENTION, part_table, segmentor_macs
from mmtoken.analysis.loading import build_model, image_shape, read_config, read_images
from mmtoken.engine.checks import UserError, one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--shape', type=int, nargs='+', help='image size H W, or one number for a square')
    parser.add_argument('--images', metavar='DIR', help='count on the pictures of this folder, and report their spread')
    parser.add_argument('--num', type=int, default=10, help='at most so many pictures (10)')
    parser.add_argument('--checkpoint', help='weights, which decide the token count of dynamic methods')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings of the config')
    parser.add_argument('--json', metavar='FILE', help='write the numbers to this file too')
    return parser.parse_args()


@one_line_errors()
def main():
    args = parse_args()
    cfg = read_config(args.config, args.cfg_options)
    shape = image_shape(cfg, args.shape)
    model = build_model(cfg, args.checkpoint)
    dynamic = any(getattr(module, 'dynamic', False) for module in model.modules())
    if args.images:
        images = read_images(model, args.images, shape, args.num)
        reports = [segmentor_macs(model, image[None]) for image in images]
    elif dynamic:
        raise UserError('The token count of this method depends on the picture; give --images DIR.')
    else:
        try:
            reports = [segmentor_macs(model.to('meta'), shape)]
        except (RuntimeError, TypeError):  # it reads values, or asks the device for what meta has not
            model = build_model(cfg, args.checkpoint)
            reports = [segmentor_macs(model, shape)]

    tables = [dict(part_table(report, model)) for report in reports]
    parts = {name: [table.get(name, 0) for table in tables] for table in tables for name in table}
    totals = [report.total for report in reports]
    whole = 'backbone, neck and decode head' if hasattr(model, 'encode_decode') else 'feature extractor only'
    what = f'mean ± standard deviation over {len(totals)} pictures' if args.images else 'one image, blank'
    print(f'{Path(args.config).name}: {shape[0]}x{shape[1]}, {whole}, {what}')
    width = max(len(name) for name in [*parts, 'total'])
    for name, macs in [*parts.items(), ('total', totals)]:
        share = statistics.mean(macs) / statistics.mean(totals)
        deviation = f' ± {statistics.stdev(macs) / 1e9:.3f}' if len(macs) > 1 else ''
        print(f'  {name:<{width}}  {statistics.mean(macs) / 1e9:10.3f}{deviation} GMACs  {share:7.1%}')
    parameters = sum(p.numel() for p in model.parameters())
    print(f'Parameters: {parameters / 1e6:.2f} M')
    print(f'Convention: {CONVENTION}')
    print('Seen and not counted: ' + ', '.join(sorted({name for report in reports for name in report.uncounted})))
    if args.json:
        Path(args.json).write_text(
            json.dumps(
                dict(
                    config=args.config, shape=shape, pictures=len(totals) if args.images else 0, macs=totals,
                    macs_mean=statistics.mean(totals), parts=parts, by_operator=reports[0].by_operator,
                    parameters=parameters, convention=CONVENTION, command=sys.argv), indent=1))


if __name__ == '__main__':
    main()
