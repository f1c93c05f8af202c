"""``HumanData`` of mmhuman3d: an ``.npz`` with one row a person."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from mmtoken.registry import DATASETS
from mmtoken.unpickle.arrays import read_npz

from .base import PeopleDataset


@DATASETS.register_module()
class HumanDataset(PeopleDataset):
    """Files in mmhuman3d's format ``HumanData``; rows of one ``image_path`` are the people of one picture.

    It reads ``image_path``, ``smpl`` (``body_pose``, ``global_orient``, ``betas``, ``transl``, in the camera's frame),
    and from ``meta`` or ``misc`` ``focal_length``, ``principal_point``, ``gender``, ``height`` and ``width``, each one
    value a row or one for all.

    Args:
        ann_file (str): The file.
        cam_intrinsics (list, optional): Camera 3×3 of all pictures, for files without ``focal_length``.
        all_people (bool): Whether everybody in the pictures has a row. Defaults to False.
        **kwargs: Those of :class:`PeopleDataset`.

    Raises:
        ValueError: For a file without ``smpl.transl`` or without camera.
    """

    def __init__(self, ann_file: str, cam_intrinsics: list | None = None, all_people: bool = False, **kwargs):
        self.cam_intrinsics, self.all_people = cam_intrinsics, all_people
        super().__init__(ann_file=ann_file, **kwargs)

    def pictures(self) -> Iterator[dict]:
        data = read_npz(self.ann_file)
        smpl, names = data['smpl'], np.asarray(data['image_path'])
        rows = len(names)
        if 'transl' not in smpl:
            raise ValueError(
                f'{self.ann_file}: smpl holds no transl, so nobody can be placed before the camera; only files whose '
                'parameters were made with a known camera can be used'
            )
        cameras = self.cameras(data, rows)
        gender, height, width = (of_rows(data, key, rows) for key in ('gender', 'height', 'width'))
        pose = np.concatenate([np.reshape(smpl[key], (rows, -1)) for key in ('global_orient', 'body_pose')], axis=1)
        for name in dict.fromkeys(names.tolist()):
            here = np.flatnonzero(names == name)
            sizes = {
                key: int(value[here[0]]) for key, value in (('height', height), ('width', width)) if value is not None
            }
            more = {} if gender is None else dict(gender=[str(gender[i]) for i in here])
            yield dict(
                name=name,
                pose=pose[here, :72],
                betas=np.reshape(smpl['betas'], (rows, -1))[here, :10],
                transl=smpl['transl'][here],
                cam_intrinsics=cameras[here[0]],
                all_people=self.all_people,
                **sizes,
                **more,
            )

    def cameras(self, data: dict, rows: int) -> np.ndarray:
        """Returns the camera of each row ``(N, 3, 3)``."""
        if self.cam_intrinsics is not None:
            return np.tile(np.reshape(self.cam_intrinsics, (3, 3)).astype(np.float32), (rows, 1, 1))
        focal, centre = (of_rows(data, key, rows) for key in ('focal_length', 'principal_point'))
        if focal is None or centre is None:
            raise ValueError(
                f'{self.ann_file}: meta and misc hold no focal_length with principal_point; set cam_intrinsics to the '
                'camera of the pictures, a list of 3×3'
            )
        cameras = np.zeros((rows, 3, 3), np.float32)
        cameras[:, [0, 1], [0, 1]], cameras[:, :2, 2], cameras[:, 2, 2] = focal, centre, 1
        return cameras


def of_rows(data: dict, key: str, rows: int) -> Any:
    """Returns a value of ``meta`` or ``misc`` for each row, numbers of cameras as ``(N, 2)``; None if there is none."""
    for part in ('meta', 'misc'):
        value = data.get(part, {}).get(key) if isinstance(data.get(part), dict) else None
        if value is not None:
            value = np.asarray(value)
            if key in ('focal_length', 'principal_point'):
                value = value.reshape(-1, 1) if value.ndim < 2 and value.size != 2 else np.atleast_2d(value)
                return np.broadcast_to(value, (rows, 2))
            return np.broadcast_to(value.reshape(-1), (rows,))
    return None
