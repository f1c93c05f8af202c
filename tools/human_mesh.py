"""Finds the people of pictures, folders, videos or a webcam, and writes their meshes.

    python tools/human_mesh.py CONFIG CHECKPOINT photo.jpg --out out --formats picture json obj
    python tools/human_mesh.py CONFIG CHECKPOINT street.mp4 --out out --batch-size 4 --fov 70
    python tools/human_mesh.py CONFIG CHECKPOINT 0 --show

Ctrl-C ends a video; what was done until then is kept.
"""

import argparse

import numpy as np

import mmtoken  # noqa: F401  before any config is read
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.hmr.inferencer import FORMATS, HumanMeshInferencer


@one_line_errors()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('inputs', help='picture, folder, video, or number of a webcam')
    parser.add_argument('--out', help='folder for results')
    parser.add_argument('--formats', nargs='+', default=['picture', 'json'], choices=FORMATS, help='what to write')
    parser.add_argument('--panels', nargs='+', default=['mesh'], help='what to draw: picture mesh bird scale tokens')
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--fov', type=float, help='field of view over the longest side, degrees')
    parser.add_argument('--intrinsics', type=float, nargs=4, metavar=('FX', 'FY', 'CX', 'CY'), help='camera, pixels')
    parser.add_argument('--score-thr', type=float, help='least confidence of a person')
    parser.add_argument('--device', help='the GPU, if there is one')
    parser.add_argument('--show', action='store_true', help='show drawings in a window; q ends')
    args = parser.parse_args(argv)
    if args.out is None and not args.show:
        raise UserError('give --out DIR or --show, or nobody will see the result')
    camera = None
    if args.intrinsics:
        fx, fy, cx, cy = args.intrinsics
        camera = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    inferencer = HumanMeshInferencer(args.config, args.checkpoint, args.device, args.score_thr, args.panels)
    found = inferencer(
        args.inputs, args.batch_size, args.fov, camera, args.out, args.formats, show=args.show, keep=False
    )
    print(f'\n{len(found["names"])} pictures' + (f', results in {args.out}' if args.out else ''))


if __name__ == '__main__':
    main()
