"""The people of a picture on their way through a pipeline: arrays of ``results``, one row a person.

All datasets give them and all transforms keep them right, so that pose and translation, seen through
``cam_intrinsics``, land on the picture.
"""

import numpy as np
import torch

from mmtoken.hmr.geometry import points_to_boxes, project

#: Keys of ``results`` with a row for each person:
#: ``gt_pose (N, 24, 3)`` axis-angle, ``gt_betas (N, 10)``, ``gt_transl (N, 3)`` metres, ``gt_keypoints_3d (N, 45,
#: 3)`` metres in the camera's frame, ``gt_keypoints (N, 45, 2)`` pixels, ``gt_keypoints_visible (N, 45)`` bool,
#: ``gt_bboxes (N, 4)`` pixels, ``gt_smpl_valid (N,)`` bool: pose and betas are known; ``gt_valid_3d (N,)`` bool: 3D
#: joints and translation are true, not fitted.
FIELDS = dict(
    gt_pose=((24, 3), np.float32),
    gt_betas=((10,), np.float32),
    gt_transl=((3,), np.float32),
    gt_keypoints_3d=((45, 3), np.float32),
    gt_keypoints=((45, 2), np.float32),
    gt_keypoints_visible=((45,), bool),
    gt_bboxes=((4,), np.float32),
    gt_smpl_valid=((), bool),
    gt_valid_3d=((), bool),
)
#: Width and height of a person's box over those of its joints.
ENLARGE = 1.2


def keep(results: dict, chosen: np.ndarray) -> None:
    """Keeps some people, in place.

    Args:
        results (dict): Of a pipeline.
        chosen (np.ndarray): Mask ``(N,)``.
    """
    if 'gender' in results:
        results['gender'] = [gender for gender, stays in zip(results['gender'], chosen) if stays]
    for key in FIELDS:
        if key in results:
            results[key] = results[key][chosen]


def boxes_of(keypoints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns people's boxes ``(N, 4)``, float32: those of their joints, 1.2 times as large, clipped to the picture.

    Args:
        keypoints (np.ndarray): ``(N, 45, 2)``, pixels.
        size (tuple[int, int]): Height and width of the picture, pixels.
    """
    return points_to_boxes(torch.from_numpy(np.asarray(keypoints, np.float32)), size, ENLARGE).numpy()


def inside_picture(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns which points ``(…, 2)`` in pixels lie in a picture of height and width ``size``: ``(…,)``, bool."""
    return np.asarray(((points >= 0) & (points < [size[1], size[0]])).all(-1))


def project_people(results: dict) -> None:
    """Sets ``gt_keypoints`` and ``gt_bboxes`` from 3D joints, camera and ``img_shape``, in place."""
    camera = torch.from_numpy(np.asarray(results['cam_intrinsics'], np.float32))
    keypoints = project(torch.from_numpy(results['gt_keypoints_3d']), camera).numpy()
    results['gt_keypoints'] = keypoints
    results['gt_bboxes'] = boxes_of(keypoints, results['img_shape'][:2])
