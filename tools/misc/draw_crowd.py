"""Writes pictures of SyntheticCrowd, each with its labels beside it: meshes, from above, scale map.

python tools/misc/draw_crowd.py --out crowd --number 8 --size 644 644 --seed 0
"""

import argparse
import time
from pathlib import Path

import numpy as np

import mmtoken  # noqa: F401
from mmtoken.engine.errors import one_line_errors
from mmtoken.engine.files import replacing, write_image
from mmtoken.hmr.data import SyntheticCrowd
from mmtoken.hmr.render import HumanMeshVisualizer


def human_data(samples: list) -> dict:
    """Returns people in the format of mmhuman3d's HumanData, one row a person."""
    cameras = [sample.cam_intrinsics for sample in samples for _ in range(len(sample.gt_instances))]
    fields = {
        name: np.concatenate([sample.gt_instances[name].numpy() for sample in samples])
        for name in ('smpl_pose', 'smpl_betas', 'transl', 'bboxes')
    }
    pose, boxes = fields['smpl_pose'], fields['bboxes']
    names = [sample.img_path for sample in samples for _ in range(len(sample.gt_instances))]
    sizes = np.array([sample.ori_shape for sample in samples for _ in range(len(sample.gt_instances))]).reshape(-1, 2)
    return dict(
        image_path=np.array(names),
        bbox_xywh=np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], np.ones(len(boxes))]),
        smpl=dict(global_orient=pose[:, 0], body_pose=pose[:, 1:], betas=fields['smpl_betas'], transl=fields['transl']),
        meta=dict(
            focal_length=[[float(camera[0, 0]), float(camera[1, 1])] for camera in cameras],
            principal_point=[camera[:2, 2].tolist() for camera in cameras],
            height=sizes[:, 0].tolist(),
            width=sizes[:, 1].tolist(),
        ),
    )


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('crowd'), help='folder that they are written to')
    parser.add_argument('--number', type=int, default=8, help='how many')
    parser.add_argument('--size', type=int, nargs=2, default=(644, 644), metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument('--people', type=int, nargs=2, default=(1, 8), metavar=('LEAST', 'MOST'))
    parser.add_argument('--scales', type=float, nargs=2, default=(0.06, 1.0), metavar=('LEAST', 'MOST'))
    parser.add_argument('--backgrounds', help='folder of photos')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--plain', action='store_true', help='the pictures alone, and people.npz')
    args = parser.parse_args()
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
    spent, samples = 0.0, []
    for i in range(args.number):
        start = time.process_time()
        each = crowd[i]
        spent += time.process_time() - start
        image, sample = each['inputs'].numpy().transpose(1, 2, 0), each['data_samples']
        samples.append(sample)
        path = args.out / sample.img_path
        if args.plain:
            write_image(path, image)
        else:
            visualizer.add_datasample(path.name, image[..., ::-1].copy(), sample, out_file=str(path))
    if args.plain:
        with replacing(args.out / 'people.npz') as part, open(part, 'wb') as file:
            np.savez_compressed(file, **human_data(samples))
    print(f'{args.number} pictures in {args.out}; {args.number / spent:.1f} drawn in a second of CPU time')


if __name__ == '__main__':
    main()
