"""Transforms that keep picture, people and camera together: pose, translation and joints still land on the picture."""

import math

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform

from mmtoken.core.arguments import check_int, check_number, check_range
from mmtoken.hmr.body import FLIP_JOINTS
from mmtoken.hmr.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from mmtoken.hmr.render.raster import FAR
from mmtoken.registry import TRANSFORMS

from .people import boxes_of, inside_picture, keep

#: People stay who have so many of their 45 joints in the picture, and one of the first 22.
FEWEST, SKELETON = 4, 22


def map_pixels(results: dict, matrix: np.ndarray, size: tuple[int, int], turn: float = 0.0) -> None:
    """Moves pixels, and with them camera and people; the picture itself is the caller's.

    An image point p goes to ``A p``, with A the ``matrix``. The people turn about the axis of the camera by R, the
    rotation in A, and the camera becomes ``A K R⁻¹``, so that they are seen at ``A K X``.

    Args:
        results (dict): Of a pipeline, changed in place.
        matrix (np.ndarray): ``(2, 3)``, of points (x, y): the middle of the first pixel is (0.5, 0.5).
        size (tuple[int, int]): New height and width, pixels.
        turn (float): Angle of the rotation in the matrix, radians, clockwise as seen.
    """
    full = np.vstack([matrix, [0, 0, 1]])
    spin = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    results['cam_intrinsics'] = (full @ results['cam_intrinsics'] @ spin.T).astype(np.float32)
    results['img_shape'] = size
    if 'gt_keypoints' not in results:
        return
    if turn:
        rotate_people(results, spin.astype(np.float32))
    points = results['gt_keypoints'] @ matrix[:, :2].T + matrix[:, 2]
    results['gt_keypoints'] = points.astype(np.float32)
    results['gt_keypoints_visible'] = results['gt_keypoints_visible'] & inside_picture(points, size)
    results['gt_bboxes'] = boxes_of(results['gt_keypoints'], size)


def rotate_people(results: dict, spin: np.ndarray) -> None:
    """Rotates people ``(3, 3)`` about the camera, in place.

    A body turns about its pelvis, which lies at ``J + transl`` with J its place at rest, so transl becomes
    ``R (J + transl) - J``.
    """
    pelvis = results['gt_keypoints_3d'][:, 0]
    results['gt_transl'] = pelvis @ spin.T - (pelvis - results['gt_transl'])
    results['gt_keypoints_3d'] = results['gt_keypoints_3d'] @ spin.T
    pose = torch.from_numpy(results['gt_pose'])
    turned = torch.from_numpy(spin) @ axis_angle_to_matrix(pose[:, 0])
    results['gt_pose'] = torch.cat([matrix_to_axis_angle(turned)[:, None], pose[:, 1:]], dim=1).numpy()


@TRANSFORMS.register_module()
class ResizePeople(BaseTransform):
    """Resizes a picture so that its longest side is ``side``; sets ``scale_factor``, new over old width and height.

    Args:
        side (int): Pixels.
    """

    def __init__(self, side: int):
        self.side = check_int('side', side, 28)

    def transform(self, results: dict) -> dict:
        """Resizes.

        Raises:
            ValueError: For a picture without pixels.
        """
        height, width = results['img'].shape[:2]
        if not height * width:
            raise ValueError(f'{results.get("img_path")}: has {width}×{height} pixels; remove it')
        factor = self.side / max(height, width)
        size = max(1, round(height * factor)), max(1, round(width * factor))
        way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        results['img'] = cv2.resize(results['img'], size[::-1], interpolation=way)
        if 'depth' in results:
            results['depth'] = cv2.resize(results['depth'], size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        across, down = size[1] / width, size[0] / height
        map_pixels(results, np.array([[across, 0, 0], [0, down, 0.0]]), size)
        before = results.get('scale_factor', (1.0, 1.0))
        results['scale_factor'] = (before[0] * across, before[1] * down)
        return results


@TRANSFORMS.register_module()
class RandomAffinePeople(BaseTransform):
    """Turns and scales about the middle of the picture, whose size stays; what comes in from outside is black.

    It is drawn anew while nobody is left in the picture. People with fewer than 4 of 45 joints in it leave.

    Args:
        rotate (float): Up to so many degrees either way. Defaults to 15.
        scale (tuple[float, float]): Range of the scale. Defaults to (0.8, 1.8).
        tries (int): How often it is drawn at most; then the picture stays as it is. Defaults to 10.
    """

    def __init__(self, rotate: float = 15.0, scale: tuple[float, float] = (0.8, 1.8), tries: int = 10):
        self.rotate, self.tries = check_number('rotate', rotate, 0, 180), check_int('tries', tries, 1)
        self.scale = check_range('scale', scale, 0, above=True)

    def transform(self, results: dict) -> dict:
        """Turns and scales."""
        size = results['img'].shape[:2]
        for _ in range(self.tries):
            turn = math.radians(np.random.uniform(-self.rotate, self.rotate))
            matrix = turning(turn, np.random.uniform(*self.scale), (size[1] / 2, size[0] / 2))
            points = results.get('gt_keypoints', np.zeros((0, 45, 2))) @ matrix[:, :2].T + matrix[:, 2]
            inside = inside_picture(points, size)
            stay = (inside.sum(1) >= FEWEST) & inside[:, :SKELETON].any(1)
            if stay.any() or not len(stay):
                self.warp(results, matrix, turn)
                keep(results, stay)
                return results
        return results

    @staticmethod
    def warp(results: dict, matrix: np.ndarray, turn: float) -> None:
        """Maps picture and people."""
        size = results['img'].shape[:2]
        pixels = matrix.copy()  # OpenCV's points are (0, 0) in the middle of the first pixel
        pixels[:, 2] += 0.5 * matrix[:, :2].sum(1) - 0.5
        results['img'] = cv2.warpAffine(results['img'], pixels, size[::-1], flags=cv2.INTER_LINEAR)
        if 'depth' in results:
            results['depth'] = cv2.warpAffine(
                results['depth'], pixels, size[::-1], flags=cv2.INTER_NEAREST, borderValue=FAR
            )
        map_pixels(results, matrix, size, turn)


def turning(turn: float, scale: float, centre: tuple[float, float]) -> np.ndarray:
    """Returns the map ``(2, 3)`` that turns by radians, clockwise as seen, and scales about a point."""
    part = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return np.column_stack([part, np.asarray(centre) - part @ centre])


@TRANSFORMS.register_module()
class RandomFlipPeople(BaseTransform):
    """Mirrors picture, camera and people; left joints become right ones. Sets ``flip``.

    Betas stay: bodies are symmetric. (Those of :class:`~mmtoken.hmr.body.FreeBody` are so within some millimetres.)

    Args:
        prob (float): How often. Defaults to 0.5.
    """

    def __init__(self, prob: float = 0.5):
        self.prob = check_number('prob', prob, 0, 1)

    def transform(self, results: dict) -> dict:
        """Mirrors, at times."""
        results['flip'] = bool(np.random.rand() < self.prob)
        if not results['flip']:
            return results
        width = results['img'].shape[1]
        for key in ('img', 'depth'):
            if key in results:
                results[key] = np.ascontiguousarray(results[key][:, ::-1])
        # Mirrored people before the same camera are seen at cx - fx x/z; the mirrored picture wants w - cx - fx x/z.
        results['cam_intrinsics'] = results['cam_intrinsics'].copy()
        results['cam_intrinsics'][0, 2] = width - results['cam_intrinsics'][0, 2]
        results['cam_intrinsics'][0, 1] *= -1
        if 'gt_keypoints' not in results:
            return results
        joints, order = results['gt_keypoints_3d'], list(FLIP_JOINTS)
        aside = np.array([-1, 1, 1], np.float32)
        rest = joints[:, 0] - results['gt_transl']
        results['gt_transl'] = joints[:, 0] * aside - rest
        results['gt_keypoints_3d'] = (joints * aside)[:, order]
        results['gt_pose'] = results['gt_pose'][:, order[:24]] * np.array([1, -1, -1], np.float32)
        points = results['gt_keypoints'][:, order]
        points[..., 0] = width - points[..., 0]
        results['gt_keypoints'] = points
        results['gt_keypoints_visible'] = results['gt_keypoints_visible'][:, order]
        results['gt_bboxes'] = boxes_of(points, results['img_shape'])
        return results


@TRANSFORMS.register_module()
class OccludePeople(BaseTransform):
    """Hides a part of people's boxes behind noise; joints there are no longer visible.

    Args:
        prob (float): How often, for each person. Defaults to 0.6.
        area (tuple[float, float]): Range of the part of the box. Defaults to (0, 0.3).
        aspect (tuple[float, float]): Range of height over width. Defaults to (0.5, 2).
    """

    def __init__(
        self, prob: float = 0.6, area: tuple[float, float] = (0.0, 0.3), aspect: tuple[float, float] = (0.5, 2.0)
    ):
        self.prob = check_number('prob', prob, 0, 1)
        self.area = check_range('area', area, 0, 1)
        self.aspect = check_range('aspect', aspect, 0, above=True)

    def transform(self, results: dict) -> dict:
        """Draws noise over people."""
        height, width = results['img'].shape[:2]
        image = results['img'] = results['img'].copy()
        visible = results['gt_keypoints_visible'] = results['gt_keypoints_visible'].copy()
        for left, top, right, bottom in results['gt_bboxes']:
            if np.random.rand() >= self.prob:
                continue
            size = np.random.uniform(*self.area) * (right - left) * (bottom - top)
            aspect = np.random.uniform(*self.aspect)
            h, w = math.sqrt(size * aspect), math.sqrt(size / aspect)
            x, y = np.random.uniform(left, right) - w / 2, np.random.uniform(top, bottom) - h / 2
            x0, x1 = (int(np.clip(round(v), 0, width)) for v in (x, x + w))
            y0, y1 = (int(np.clip(round(v), 0, height)) for v in (y, y + h))
            image[y0:y1, x0:x1] = np.random.randint(0, 256, (y1 - y0, x1 - x0, 3), np.uint8)
            points = results['gt_keypoints']
            visible &= ~((points >= [x0, y0]) & (points < [x1, y1])).all(-1)
        return results
