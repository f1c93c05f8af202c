"""Draw what happens to each token of a picture, block by block, and what that does to the prediction.

    python tools/analysis_tools/vis_tokens.py CONFIG CHECKPOINT IMAGE [--layers 3 6 9] [--strip] [--out FILE.png]

Patches that share a token have their mean colour within a border; patches whose token left early are shaded by the
block that it left at. The dense model is the same checkpoint without the reducer. The picture is resized to the size
that the config tests with (--shape for another one). ``--strip`` draws one row for a page: the picture, its tokens in
the last of the blocks, the prediction.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis import trace_tokens
from mmtoken.analysis.loading import (
    build_model,
    class_colors,
    image_shape,
    normalised,
    read_config,
    read_picture,
    spread_out,
)
from mmtoken.analysis.synthetic import fewest
from mmtoken.analysis.tasks import task_of
from mmtoken.analysis.variants import check_reducer, dense_config
from mmtoken.engine.configs import CfgOptions
from mmtoken.engine.devices import check_device, check_installed
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output
from mmtoken.engine.flags import check_least

PANELS = 8


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file with a reducer')
    parser.add_argument('checkpoint', help='checkpoint file; that of the dense model serves')
    parser.add_argument('image', help='picture')
    parser.add_argument(
        '--layers',
        type=int,
        nargs='+',
        metavar='I',
        help=f'blocks to show, from 0 (those where something changes, at most {PANELS})',
    )
    parser.add_argument(
        '--strip', action='store_true', help='one row: picture, tokens in the last block shown, prediction'
    )
    parser.add_argument('--shape', type=int, nargs='+', help='size H W that the picture is resized to')
    parser.add_argument('--out', type=Path, help='PNG to write (outputs/<config>_<image>.png)')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help='override settings of the config')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    check_least(args, layers=0, shape=1)
    return args


def paint_people(picture: np.ndarray, outputs: dict, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Meshes over the picture, by title, and the map by which the method chose its tokens, if it has one."""
    from mmtoken.hmr.render import draw_meshes, draw_scale_map

    painted, faces = {}, model.body.faces.cpu().numpy()
    for title, output in outputs.items():
        vertices, camera = output['vertices'].cpu().numpy(), output['cameras'][0].cpu().numpy()
        painted[f'{title}: {len(vertices)} people'] = draw_meshes(picture, vertices, faces, camera)
        if 'pred_scale_map' in output:
            maps, cell = output['pred_scale_map'][0].cpu().numpy(), 2 * model.backbone.patch_size
            painted['scale map: red is small, blue is large'] = draw_scale_map(picture, maps, cell)
    return painted


@one_line_errors()
def main():
    args = parse_args()
    check_installed('matplotlib')
    check_device(args.device)
    from mmtoken.analysis.figures import (
        check_format,
        paint_boxes,
        paint_labels,
        save_figure,
        strip_figure,
        tokens_figure,
    )

    name = Path(args.config).stem
    out = args.out or Path('outputs') / f'{name}_{Path(args.image).stem}.png'
    check_format('--out', out)
    cfg = read_config(args.config, args.cfg_options)
    check_reducer(cfg, args.config)
    mean = (cfg.model.get('data_preprocessor') or {}).get('mean') or [0] * 3
    pixels = read_picture(args.image, cfg, len(mean), 'image')
    check_output('--out', out)
    model = build_model(cfg, args.checkpoint).to(args.device)
    depth = len(model.backbone.blocks)
    unknown = [i for i in args.layers or [] if i not in range(depth)]
    if unknown:
        raise UserError(f'--layers {unknown[0]}: this model has the blocks 0 to {depth - 1}')

    pixels = cv2.resize(pixels, image_shape(cfg, args.shape)[::-1], interpolation=cv2.INTER_AREA)
    pixels = pixels.reshape(*pixels.shape[:2], -1)  # OpenCV drops a single channel
    image = normalised(model, pixels).to(args.device)
    dense = build_model(dense_config(cfg), args.checkpoint).to(args.device)
    task = task_of(model)
    with torch.no_grad():
        with trace_tokens(model.backbone) as trace:
            ours = task.run(model)(image)
        theirs = task.run(dense)(image)
    picture = np.ascontiguousarray(np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels[..., 2::-1])
    both = {'prediction': ours, 'prediction of the dense model': theirs}
    labels, painted, classes, palette = None, {}, [], []
    if task.name == 'segment':
        labels = {title: task.labels(logits)[0].cpu().numpy() for title, logits in both.items()}
        classes, palette = class_colors(cfg, args.checkpoint, max(2, ours.shape[1]))
    elif task.name == 'detect':
        classes, palette = class_colors(cfg, args.checkpoint, fewest(model, 'num_classes'))
        painted = {
            title: paint_boxes(picture, samples[0], classes, palette, task.score) for title, samples in both.items()
        }

    elif task.name == 'mesh':
        painted = paint_people(picture, both, model)

    layers = args.layers or spread_out(trace.changes() or [0, depth - 1], PANELS)
    if args.strip:
        shown = painted or {
            title: paint_labels(picture, map_, np.array(palette)) for title, map_ in (labels or {}).items()
        }
        figure = strip_figure(picture, trace, layers[-1], shown.get('prediction'))
    else:
        figure = tokens_figure(picture, trace, layers, name, labels, classes, palette, painted)
    save_figure(figure, out)
    print('tokens in each block: ' + ', '.join(str(count[0]) for count in trace.counts))
    for what, value in task.compare(theirs, ours).items():
        print(f'{what} with the dense model: {value:.4g}')
    print(out)


if __name__ == '__main__':
    main()
