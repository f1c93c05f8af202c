"""What all annotated datasets of people share: from parameters in any frame to people before the camera."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset

from mmtoken.hmr.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from mmtoken.registry import BODY_MODELS

from ..people import keep

#: People whose pelvis is nearer than so many metres, or behind the camera, are left out.
NEAREST = 0.1


class PeopleDataset(BaseDataset):
    """Pictures with SMPL parameters of their people, one entry a picture.

    People with values that are no numbers are left out, and the picture counts as one that shows people without labels
    (``all_people=False``); people behind the camera are left out. Pictures without anybody stay. Pictures are loaded by
    :class:`~mmtoken.hmr.data.LoadPeople`, which has to come first in the pipeline.

    Args:
        ann_file (str): Annotations, see the dataset.
        data_prefix (dict): ``img``: folder of the pictures.
        body_model (dict, optional): Config of the body model that the parameters are those of; None is
            ``dict(type='SMPL')``.
        genders (dict, optional): Configs by gender, ``male`` and ``female``, for datasets that have them.
        **kwargs: Those of mmengine's ``BaseDataset``.
    """

    METAINFO = dict(classes=('person',), palette=[(220, 20, 60)])

    def __init__(
        self,
        ann_file: str,
        data_prefix: dict | None = None,
        body_model: dict | None = None,
        genders: dict[str, dict] | None = None,
        **kwargs,
    ):
        self.body = BODY_MODELS.build(body_model or dict(type='SMPL'))
        self.bodies = {name: BODY_MODELS.build(cfg) for name, cfg in (genders or {}).items()}
        super().__init__(ann_file=ann_file, data_prefix=data_prefix or dict(img=''), **kwargs)

    def pictures(self) -> Iterator[dict]:
        """Yields the pictures.

        Each is a dict of ``name`` (below the folder of pictures) and, of its N people, ``pose (N, 24, 3)``,
        ``betas (N, ≥ 10)`` and ``transl (N, 3)``; where there are such, also ``cam_rot (N, 3, 3)`` and ``cam_trans (N,
        3)``, which take the world to the camera, ``cam_intrinsics (3, 3)``, ``own_cam_intrinsics (N, 3, 3)``,
        ``gender`` (list), ``all_people``, and what a pipeline may want.
        """
        raise NotImplementedError

    def load_data_list(self) -> list[dict]:
        """Reads the annotations.

        Raises:
            ValueError: If they lack something, with the names of file and picture, or hold no picture.
        """
        data_list: list[dict] = []
        name = 'the first picture'
        try:
            for picture in self.pictures():
                name = picture['name']
                data_list.append(self.entry(picture, len(data_list)))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            what = f'lacks {error}' if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise ValueError(
                f'{self.ann_file}: {what} (after {name}); {type(self).__name__} does not know this format'
            ) from error
        if not data_list:
            raise ValueError(f'{self.ann_file}: holds no pictures; give another ann_file')
        return data_list

    def entry(self, picture: dict, number: int) -> dict:
        """Returns what is kept of a picture."""
        entry = {key: value for key, value in picture.items() if key not in ('name', 'pose', 'betas', 'transl')}
        people = len(picture['pose'])
        entry['gt_pose'] = np.asarray(picture['pose'], np.float32).reshape(people, 24, 3)
        betas = np.asarray(picture['betas'], np.float32).reshape(people, -1 if people else self.body.num_betas)
        entry['gt_betas'] = betas[:, : self.body.num_betas]
        entry['gt_transl'] = np.asarray(picture['transl'], np.float32).reshape(people, 3)
        entry['img_path'] = str(Path(self.data_prefix['img']) / picture['name'])
        entry['img_id'] = number
        if entry.get('cam_intrinsics') is not None:
            entry['cam_intrinsics'] = check_camera(self.ann_file, picture['name'], entry['cam_intrinsics'])
        given = [key for key in ('cam_rot', 'cam_trans', 'own_cam_intrinsics') if key in entry]
        for key in given:
            entry[key] = np.asarray(entry[key], np.float32)
        fields = ['gt_pose', 'gt_betas', 'gt_transl', *given]
        known = np.all([np.isfinite(entry[key]).all(tuple(range(1, entry[key].ndim))) for key in fields], axis=0)
        entry['all_people'] = bool(entry.get('all_people', True)) and bool(known.all())
        for key in fields:
            entry[key] = entry[key][known]
        if 'gender' in entry:
            entry['gender'] = [gender for gender, good in zip(entry['gender'], known) if good]
        return entry

    def get_data_info(self, idx: int) -> dict:
        """Returns a picture with its people in the camera's frame, see :data:`mmtoken.hmr.data.people.FIELDS`."""
        info = super().get_data_info(idx)
        people = len(info['gt_pose'])
        names = info.get('gender', [None] * people)
        joints = np.zeros((people, 45, 3), np.float32)
        for name in set(names):
            body, rows = self.bodies.get(name, self.body), np.array([other == name for other in names])
            pose, betas, transl = (torch.from_numpy(info[f'gt_{key}'][rows]) for key in ('pose', 'betas', 'transl'))
            if 'cam_rot' in info:
                turn, move = (torch.from_numpy(info[key][rows]) for key in ('cam_rot', 'cam_trans'))
                pose, transl = to_camera(pose, transl, body.pelvis(betas), turn, move)
                info['gt_pose'][rows], info['gt_transl'][rows] = pose.numpy(), transl.numpy()
            with torch.no_grad():
                joints[rows] = body(pose, betas, transl).joints.numpy()
        info.update(gt_keypoints_3d=joints, dataset=type(self).__name__)
        info['gt_smpl_valid'], info['gt_valid_3d'] = np.ones(people, bool), np.ones(people, bool)
        before = joints[:, 0, 2] > NEAREST
        keep(info, before)
        if 'own_cam_intrinsics' in info:
            info['own_cam_intrinsics'] = info['own_cam_intrinsics'][before]
        return info


def to_camera(pose: Any, transl: Any, pelvis: Any, turn: Any, move: Any) -> tuple:
    """Takes people from the world into the camera's frame, x to ``R x + t``.

    Args:
        pose (Tensor): ``(N, 24, 3)``.
        transl (Tensor): ``(N, 3)``, metres.
        pelvis (Tensor): ``(N, 3)``, metres: that of the body at rest, about which it turns.
        turn (Tensor): R ``(N, 3, 3)``.
        move (Tensor): t ``(N, 3)``, metres.

    Returns:
        tuple[Tensor, Tensor]: Pose and translation.
    """
    first = matrix_to_axis_angle(turn @ axis_angle_to_matrix(pose[:, 0]))
    there = (turn @ (pelvis + transl)[..., None])[..., 0] + move
    return torch.cat([first[:, None], pose[:, 1:]], dim=1), there - pelvis


def check_camera(file: str, name: str, camera: Any) -> np.ndarray:
    """Returns a camera ``(3, 3)``, float32.

    Raises:
        ValueError: If it is none.
    """
    camera = np.asarray(camera, np.float32)
    if camera.size != 9 or not np.isfinite(camera).all() or camera.reshape(3, 3)[[0, 1], [0, 1]].min() <= 0:
        raise ValueError(
            f'{file}: the camera of {name} is {camera.tolist()}, no matrix of 3×3 with positive focal lengths'
        )
    return camera.reshape(3, 3)
