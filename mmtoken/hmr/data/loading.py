"""Loads pictures, and finishes what datasets say of their people: camera, pixels, boxes."""

import cv2
import numpy as np

from mmtoken.datasets import LoadImage
from mmtoken.hmr.geometry import FOV, fov_intrinsics
from mmtoken.registry import TRANSFORMS

from .people import boxes_of, inside_picture, project_people


@TRANSFORMS.register_module()
class LoadPeople(LoadImage):
    """Loads a picture and places its people in it.

    The picture is turned upright as its EXIF says; annotations are those of the upright picture.
    ``results['quarter_turns']`` turns it further, clockwise, before anything is placed (BEDLAM's portraits). A dataset
    that knows no camera gets that of ``fov`` over the longest side, and its people's 3D positions do not count
    (``gt_valid_3d``).

    Args:
        fov (float): Degrees. Defaults to 60.
        **kwargs: Those of mmcv's ``LoadImageFromFile``.

    Raises:
        ValueError: With the file's name: for what is no picture, or one of another size than its annotation says.
    """

    def __init__(self, fov: float = FOV, **kwargs):
        super().__init__(**kwargs)
        self.fov = fov

    def transform(self, results: dict) -> dict | None:
        if super().transform(results) is None:
            return None
        image = results['img']
        for _ in range(results.get('quarter_turns', 0)):
            image = cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE)
        size = image.shape[:2]
        told = tuple(results.get(key) or n for key, n in zip(('height', 'width'), size))
        if told != size:
            turned = ', turned by its EXIF' if told == size[::-1] else ''
            raise ValueError(
                f'{results["img_path"]}: is {size[1]}×{size[0]} pixels{turned}, its annotation is for '
                f'{told[1]}×{told[0]}; annotate the picture as it is seen'
            )
        results.update(img=image, img_shape=size, ori_shape=size, height=size[0], width=size[1])
        if results.get('cam_intrinsics') is None:
            results['cam_intrinsics'] = fov_intrinsics(size, self.fov).numpy()
            self.assume_camera(results)
        if 'gt_keypoints_3d' in results:
            self.place(results)
        return results

    def assume_camera(self, results: dict) -> None:
        """Moves people with own cameras (``own_cam_intrinsics (N, 3, 3)``) to where the common one sees them."""
        if 'gt_valid_3d' in results:
            results['gt_valid_3d'] = np.zeros_like(results['gt_valid_3d'])
        if 'own_cam_intrinsics' not in results or not len(results['gt_transl']):
            return
        own, camera = results['own_cam_intrinsics'], results['cam_intrinsics']
        pelvis = results['gt_keypoints_3d'][:, 0]
        pixels = pelvis[:, :2] / pelvis[:, 2:] * own[:, [0, 1], [0, 1]] + own[:, :2, 2]
        depth = pelvis[:, 2] * camera[1, 1] / own[:, 1, 1]
        there = np.concatenate([(pixels - camera[:2, 2]) / camera[0, 0] * depth[:, None], depth[:, None]], axis=1)
        moved = (there - pelvis).astype(np.float32)
        results['gt_transl'] = results['gt_transl'] + moved
        results['gt_keypoints_3d'] = results['gt_keypoints_3d'] + moved[:, None]

    def place(self, results: dict) -> None:
        """Sets keypoints (unless the dataset has them), boxes and which joints are in the picture."""
        if 'gt_keypoints' in results:
            results['gt_bboxes'] = boxes_of(results['gt_keypoints'], results['img_shape'])
        else:
            project_people(results)
        inside = inside_picture(results['gt_keypoints'], results['img_shape'])
        results['gt_keypoints_visible'] = inside & (results['gt_keypoints_3d'][..., 2] > 0)
