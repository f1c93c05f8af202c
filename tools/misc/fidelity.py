"""How much is the output of each model like that of the first, on pictures without labels?

    python tools/misc/fidelity.py DENSE.py OTHER.py [...] --checkpoint CKPT [...] --images DIR --out FILE.json
                                  [--num 40] [--smaller-input 0.875 0.75] [--features]

For a trained model that brings no test set, or one of another's: nothing is scored against the truth, but each model
against the dense one, mean over the pictures. What is compared depends on the task: labels, overlap and correlation of
the maps of a segmentor, relative difference of depths, matching boxes. The dense model on smaller pictures, with its
maps enlarged again, is the rival. MACs are those of the first picture. The file has the format of results.py; a
run that was broken off goes on where nothing has changed.

--features compares the maps that the backbones give out, one by one, by the mean cosine at each place; MACs are
those of the backbones. Only there the checkpoint may be left out: then all have the same random weights.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis import environment
from mmtoken.analysis.benchmark import Bench
from mmtoken.analysis.loading import build_models, image_shape, read_images
from mmtoken.analysis.report import markdown
from mmtoken.analysis.tasks import Task, task_of
from mmtoken.engine.devices import check_device
from mmtoken.engine.digests import code_digest, describe, file_digest, joint
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output, read_json, write_json
from mmtoken.engine.flags import check_parts, check_positive


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', help='config files, the dense model first')
    parser.add_argument('--checkpoint', nargs='+', help='weights, one file for all or one for each')
    parser.add_argument('--images', required=True, metavar='DIR', help='folder of pictures')
    parser.add_argument('--num', type=int, default=40, help='at most so many pictures, spread over them (40)')
    parser.add_argument('--smaller-input', type=float, nargs='+', metavar='F', help='sides of smaller pictures')
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), help="of the pictures (the config's)")
    parser.add_argument('--features', action='store_true', help='compare the maps of the backbones')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', required=True, type=Path, help='JSON file to write')
    args = parser.parse_args()
    check_positive(args, 'num')
    if not (args.checkpoint or args.features):
        raise UserError('--checkpoint: outputs of random weights say nothing; give a file, or --features')
    check_parts(args, 'smaller_input')
    return args


def fidelity(task: Task, run: Callable[[int], object], dense: list) -> dict[str, float]:
    """Means of what a task compares, over the outputs of the dense model and those of another one."""
    found = []
    for n, theirs in enumerate(dense):
        ours = run(n)
        if isinstance(theirs, Tensor):
            ours = enlarged(ours, theirs)
        found.append(task.compare(theirs, ours))
    keys = {key: None for one in found for key in one}  # a map of one value correlates with nothing
    return {key: statistics.mean(one[key] for one in found if key in one) for key in keys}


def enlarged(ours: Tensor, theirs: Tensor) -> Tensor:
    """Returns the map of a smaller picture in the size of another map; others as they are."""
    if ours.shape == theirs.shape:
        return ours
    return F.interpolate(ours, theirs.shape[2:], mode='bilinear', align_corners=False)


class Features(Task):
    """The maps of a backbone."""

    def compare(self, dense, reduced):
        """Returns the mean cosine of each pair of maps ``(B, C, h, w)`` over their places."""
        pairs = enumerate(zip(dense, reduced, strict=True))
        return {f'cosine {i}': float(F.cosine_similarity(a, enlarged(b, a), dim=1).mean()) for i, (a, b) in pairs}


@one_line_errors()
def main():
    args = parse_args()
    check_device(args.device)
    check_output('--out', args.out)
    configs, models = build_models(args.configs, args.checkpoint, False, args.device)
    first = next(iter(models))
    task = task_of(models[first])
    shape = image_shape(configs[first], args.shape)
    images = read_images(models[first], args.images, shape, args.num, configs[first]).to(args.device)
    if args.features:
        task, models = Features(), {name: model.backbone for name, model in models.items()}
        for model in models.values() if not args.checkpoint else ():
            model.load_state_dict(models[first].state_dict(), strict=False)  # a method may have weights of its own
    bench = Bench(models, args.device, patch=getattr(models[first], 'backbone', models[first]).patch_size)
    dense = [bench.steps[first](image) for image in images.split(1)]
    if args.smaller_input and not (args.features or isinstance(dense[0], Tensor)):
        raise UserError(f'--smaller-input enlarges maps again, and {first} gives none; leave it out')
    bench.add_smaller(args.smaller_input or (), images, print)
    costs = bench.costs(images[:1])
    about = dict(command=' '.join(sys.argv), pictures=len(images), shape=list(images.shape[2:]))
    texts, weights = [cfg.pretty_text for cfg in configs.values()], map(file_digest, args.checkpoint or ())
    about['digest'] = joint([about, describe(images, set()), *texts, *weights, code_digest()])
    old = read_json(args.out, {})
    rows = old['rows'] if old.get('digest') == about['digest'] else []
    known = {row['config'] for row in rows}
    for name, step in bench.steps.items():
        if name in known:
            continue
        metrics = fidelity(task, lambda n, name=name, step=step: step(bench.pictures(name, images[n : n + 1])), dense)
        macs = costs[name].total
        rows.append(dict(config=name, metrics=metrics, macs=macs, mac_ratio=macs / costs[first].total))
        write_json(args.out, dict(about, **environment(args.device), rows=rows))  # a run that breaks off keeps these
        print(name, metrics, flush=True)
    keys, cells = list(rows[0]['metrics']), []
    for row in rows:
        metrics = [f'{row["metrics"][key]:.3f}' for key in keys]
        cells.append([row['config'], *metrics, f'{row["macs"] / 1e9:.1f}', f'{row["mac_ratio"]:.2f}'])
    print(markdown(['config', *keys, 'GMACs', 'MACs ×'], cells))


if __name__ == '__main__':
    main()
