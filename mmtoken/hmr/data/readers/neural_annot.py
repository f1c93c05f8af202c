"""COCO with NeuralAnnot's SMPL parameters, which were fitted to 2D joints."""

import json
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from mmtoken.registry import DATASETS

from .base import PeopleDataset


@DATASETS.register_module()
class NeuralAnnotDataset(PeopleDataset):
    """COCO's pictures with ``MSCOCO_train_SMPL_NeuralAnnot.json``.

    That file has ``smpl_param`` and ``cam_param`` by number of COCO's annotation. Each person was fitted with a camera
    of their own, which says nothing true about depth. All are put before one camera, where they look about the same;
    their 3D positions do not count (``gt_valid_3d``), and their joints in the picture are those of the fit.
    Pictures with people or crowds that have no parameters get ``all_people=False``.

    Args:
        ann_file (str): NeuralAnnot's file.
        coco_file (str): COCO's ``person_keypoints_train2017.json``.
        **kwargs: Those of :class:`PeopleDataset`.
    """

    def __init__(self, ann_file: str, coco_file: str, **kwargs):
        self.coco_file = coco_file
        super().__init__(ann_file=ann_file, **kwargs)

    def pictures(self) -> Iterator[dict]:
        with open(self.ann_file) as file:
            fits = json.load(file)
        with open(self.coco_file) as file:
            coco = json.load(file)
        people = defaultdict(list)
        for person in coco['annotations']:
            people[person['image_id']].append(person)
        for picture in coco['images']:
            fitted = [fits[str(one['id'])] for one in people[picture['id']] if str(one['id']) in fits]
            if not fitted:
                continue
            cameras = [one['cam_param'] for one in fitted]
            yield dict(
                name=picture['file_name'],
                height=picture['height'],
                width=picture['width'],
                pose=[np.ravel(one['smpl_param']['pose']) for one in fitted],
                betas=[np.ravel(one['smpl_param']['shape'])[:10] for one in fitted],
                transl=[np.ravel(one['smpl_param']['trans']) for one in fitted],
                own_cam_intrinsics=[camera_matrix(one['focal'], one['princpt']) for one in cameras],
                all_people=len(fitted) == len(people[picture['id']]),
            )

    def get_data_info(self, idx: int) -> dict:
        """As the base, with joints in the picture through each person's own camera."""
        info = super().get_data_info(idx)
        image = info['gt_keypoints_3d'] @ info['own_cam_intrinsics'].transpose(0, 2, 1)
        info['gt_keypoints'] = (image[..., :2] / np.maximum(image[..., 2:], 1e-3)).astype(np.float32)
        return info


def camera_matrix(focal: list, centre: list) -> np.ndarray:
    """Returns a camera ``(3, 3)`` from two focal lengths and a principal point, pixels."""
    return np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]], np.float32)
