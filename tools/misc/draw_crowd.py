"""Writes pictures of SyntheticCrowd, each with its labels beside it: meshes, from above, scale map.

python tools/misc/draw_crowd.py --out crowd --number 8 --size 644 644 --seed 0
"""

import argparse
import time
from pathlib import Path

import cv2

import mmtoken  # noqa: F401
from mmtoken.engine.errors import one_line_errors
from mmtoken.hmr.data import SyntheticCrowd
from mmtoken.hmr.render import HumanMeshVisualizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('crowd'), help='folder that they are written to')
    parser.add_argument('--number', type=int, default=8, help='how many')
    parser.add_argument('--size', type=int, nargs=2, default=(644, 644), metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument('--people', type=int, nargs=2, default=(1, 8), metavar=('LEAST', 'MOST'))
    parser.add_argument('--scales', type=float, nargs=2, default=(0.06, 1.0), metavar=('LEAST', 'MOST'))
    parser.add_argument('--backgrounds', help='folder of photos')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--plain', action='store_true', help='the pictures alone')
    args = parser.parse_args()
    with one_line_errors():
        crowd = SyntheticCrowd(
            length=args.number,
            size=tuple(args.size),
            people=tuple(args.people),
            scales=tuple(args.scales),
            backgrounds=args.backgrounds,
            seed=args.seed,
            pipeline=[dict(type='mmtoken.MakeScaleMap'), dict(type='mmtoken.PackPeople')],
        )
        visualizer = HumanMeshVisualizer(panels=('picture', 'mesh', 'bird', 'scale'))
        args.out.mkdir(parents=True, exist_ok=True)
        start = time.process_time()
        packed = [crowd[i] for i in range(args.number)]
        print(f'{args.number / (time.process_time() - start):.1f} pictures a second of CPU time')
        for each in packed:
            image, sample = each['inputs'].numpy().transpose(1, 2, 0), each['data_samples']
            path = args.out / sample.img_path
            if args.plain:
                cv2.imwrite(str(path), image)
            else:
                visualizer.add_datasample(path.name, image[..., ::-1].copy(), sample, out_file=str(path))
    print(f'{args.number} pictures in {args.out}')


if __name__ == '__main__':
    main()
