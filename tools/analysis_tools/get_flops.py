"""Count the multiply-adds of a model, part by part, fused attention included.

    python tools/analysis_tools/get_flops.py CONFIG [CHECKPOINT] [--dataset N | --images DIR | --shape H W]
                                             [--baseline CONFIG] [--json FILE]

Counted is what happens to a picture in a test, through to the prediction: segmentors slide where their config says so,
detectors go on to their boxes and masks. The pictures are those of the config's test set, out of its own pipeline.
Work of the first call alone, such as a text encoder that is kept, is named apart. fvcore counts the first picture too.
With --shape, for models whose token count does not depend on the picture, one blank image is counted on torch's meta
device where the model can be: nothing is computed, if fvcore is left out.

Exit code: 1 if a matrix product or an attention was seen that has no formula, so that the total is too low; 2 for bad
input.
"""

import argparse
import dataclasses
import statistics
import sys
from pathlib import Path

import torch
from mmengine.config import Config

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis import CONVENTION, environment
from mmtoken.analysis.flops import cost_varies, image_channels, is_dynamic
from mmtoken.analysis.loading import build_model, dataset_inputs, image_shape, read_config, read_images
from mmtoken.analysis.report import cost_table, costs, operator_line, token_line
from mmtoken.analysis.second_opinion import SecondOpinion, second_opinion
from mmtoken.analysis.tasks import task_of
from mmtoken.analysis.variants import without
from mmtoken.engine.configs import CfgOptions
from mmtoken.engine.devices import check_device
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output, write_json
from mmtoken.engine.flags import check_least


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('config', help='config file, or mmseg::… or mmdet::…')
    add('checkpoint', nargs='?', help='weights, which decide the token count of dynamic methods')
    add('--dataset', type=int, metavar='N', help='at most so many pictures (10)')
    add('--images', metavar='DIR', help='the pictures of this folder, resized to --shape')
    shape = "H W, one number for a square, none for the config's own size; alone: one blank image"
    add('--shape', type=int, nargs='*', metavar='SIDE', help=shape)
    add('--baseline', metavar='CONFIG', help='the dense twin, side by side')
    add('--modules', action='store_true', help='list every block by itself')
    add('--no-fvcore', action='store_true', help='leave the second opinion out, which runs the model once more')
    add('--device', default='cpu', help='where to run it (cpu)')
    options = 'override settings of the config; of the dense twin those that are not of the model'
    add('--cfg-options', nargs='+', action=CfgOptions, help=options)
    add('--json', metavar='FILE', help='write the numbers to this file too')
    args = parser.parse_args()
    args.blank = args.shape is not None and not args.images
    check_least(args, dataset=1, shape=1)
    if args.blank and args.dataset:
        raise UserError('--dataset would do nothing beside --shape: one blank image is counted; add --images DIR')
    args.dataset = args.dataset or 10
    return args


def pictures(args: argparse.Namespace, cfg: Config, model: torch.nn.Module, shape: tuple | None) -> tuple[list, str]:
    """Normalised images ``(1, C, H, W)``, and what they are."""
    if args.images:
        images = read_images(model, args.images, shape, args.dataset, cfg).split(1)
        return list(images), f'pictures of {args.images}'
    if shape is None:
        instead = 'give --images DIR' + ('' if is_dynamic(model) else ', or --shape H W for one blank image')
        return dataset_inputs(cfg, model, args.dataset, instead), 'pictures of the test set'
    if is_dynamic(model):
        raise UserError(
            '--shape: the token count of this method depends on the picture; give --images DIR, or let '
            'the config find its test set.'
        )
    return [torch.zeros(1, image_channels(model), *shape)], 'blank image'


def count(cfg: Config, args: argparse.Namespace, images: list, model: torch.nn.Module) -> dict:
    """:func:`costs`, of a blank image on the meta device if the model can run there."""
    if args.blank:
        if not task_of(model).varies:
            try:
                return costs(model.to('meta'), [image.to('meta') for image in images])
            except Exception:  # it reads values, or asks the device for what meta has not; what is wrong is seen below
                pass
        model = build_model(cfg, args.checkpoint)
    return costs(model.to(args.device), [image.to(args.device) for image in images])


def ask_fvcore(cfg: Config, args: argparse.Namespace, image: torch.Tensor, model: torch.nn.Module) -> SecondOpinion:
    """fvcore's count of one picture; a trace computes, so that the meta device will not do."""
    if args.blank:
        model = build_model(cfg, args.checkpoint, initialise=False)
    return second_opinion(model.to(args.device), image.to(args.device))


@one_line_errors()
def main():
    args = parse_args()
    check_device(args.device)
    check_output('--json', args.json)
    cfg = read_config(args.config, args.cfg_options)
    twin = read_config(args.baseline, without(args.cfg_options, 'model.')) if args.baseline else None
    shape = image_shape(cfg, args.shape) if args.images or args.shape is not None else None
    model = build_model(cfg, args.checkpoint, initialise=not args.blank)
    images, what = pictures(args, cfg, model, shape)
    cost = count(cfg, args, images, model)
    theirs = None if args.no_fvcore else ask_fvcore(cfg, args, images[0], model)
    baseline = count(twin, args, images, build_model(twin, args.checkpoint, not args.blank)) if twin else None

    sizes = [f'{height}x{width}' for height, width in sorted(set(map(tuple, cost['sizes'])))]
    print(f'{Path(args.config).name}: {len(images)} {what}, {sizes[0]}' + f' to {sizes[-1]}' * (len(sizes) > 1))
    print(cost_table(cost, baseline, args.modules))
    crops = sum(cost['crops'])
    if crops > len(images):
        print(f'Sliding: {crops / len(images):.3g} crops a picture, {sum(cost["macs"]) / crops / 1e9:.3f} GMACs a crop')
    if cost['tokens']['mean']:
        print(f'Tokens in each block: {token_line(cost["tokens"])}')
    if cost['once']:
        print(f'Once: {cost["once"] / 1e9:+.3f} GMACs in the first call alone, not in the total')
    if theirs:
        print(theirs.line(cost['macs'][0]))
    parameters = sum(p.numel() for p in model.parameters())
    print(f'Parameters: {parameters / 1e6:.2f} M')
    if not args.checkpoint and cost_varies(model):
        print('Weights are random, and the cost of this model depends on what it sees; give its checkpoint.')
    print(f'Convention: {CONVENTION}')
    print(f'Seen and not counted: {operator_line(cost["uncounted"])}')
    if args.json:
        about = dict(config=args.config, checkpoint=args.checkpoint, inputs=what, pictures=len(images))
        about |= dict(shape=cost['sizes'][0], parameters=parameters, convention=CONVENTION, command=sys.argv)
        about |= dict(environment(args.device), macs_mean=statistics.mean(cost['macs']))
        about |= dict(cost, baseline=baseline, fvcore=theirs and dataclasses.asdict(theirs))
        write_json(args.json, about)
    low = False
    for whose, counted in (('The total', cost), ("The baseline's total", baseline)):
        missed = {name: counted['uncounted'][name] for name in counted['missed']} if counted else {}
        if missed:
            low = True
            why = 'these multiply matrices or attend, and mmtoken has no formula for them'
            print(f'{whose} is too low: {why}: {operator_line(missed)}', file=sys.stderr)
    if low:
        sys.exit(1)


if __name__ == '__main__':
    main()
