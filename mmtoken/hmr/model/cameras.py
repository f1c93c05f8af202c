"""Cameras of a batch: those that the data know, or one of a fixed field of view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmtoken.core.arguments import check_flag, check_number
from mmtoken.hmr.geometry import FOV, camera_to_translation, fov_intrinsics, project


class Cameras:
    """Places people in front of the cameras of their pictures, and projects them.

    A prediction of the camera head says where in the picture somebody stands and how large; the focal length turns
    that into metres. The pelvis of the body model stays at its own offset.

    Args:
        fov (float): Field of view over the longest side where the camera is not known, degrees. Defaults to 60.
        known (bool): Take the camera of a sample, ``cam_intrinsics``, where it has one; the paper's code never does.
            Defaults to True.

    Raises:
        ValueError: For another field of view, or no switch.
    """

    def __init__(self, fov: float = FOV, known: bool = True):
        self.fov = check_number('camera.fov', fov, 0, 180, above=True, below=True)
        self.known = check_flag('camera.known', known)

    def intrinsics(self, metas: Sequence[dict], sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
        """Returns the cameras ``(B, 3, 3)`` of the pictures as the network sees them, without padding.

        Args:
            metas (Sequence[dict]): Optionally with ``cam_intrinsics (3, 3)`` in pixels of that picture, or ``fov`` in
                degrees over its longest side.
            sizes (Sequence[tuple[int, int]]): Height and width of each picture without padding.
            device (torch.device): Where to put them.

        Raises:
            ValueError: If a camera is none.
        """
        made = []
        for meta, size in zip(metas, sizes):
            given = meta.get('cam_intrinsics') if self.known else None
            if given is None:
                camera = fov_intrinsics(size, (meta.get('fov') if self.known else None) or self.fov)
            else:
                camera = torch.as_tensor(given, dtype=torch.float32)
                good = camera.shape == (3, 3) and camera.isfinite().all() and camera[0, 0] > 0 and camera[1, 1] > 0
                if not good:
                    raise ValueError(
                        f'cam_intrinsics={camera.tolist()} must be a matrix of 3x3 finite numbers with positive focal '
                        'lengths, in pixels.'
                    )
            made.append(camera)
        return torch.stack(made).to(device)

    @staticmethod
    def translations(camera: Tensor, intrinsics: Tensor, centres: Tensor, side: int) -> Tensor:
        """Returns where people stand ``(…, 3)``, metres.

        Args:
            camera (Tensor): Output of the camera head ``(…, 3)``.
            intrinsics (Tensor): Of each person's picture ``(…, 3, 3)``.
            centres (Tensor): Centre of each person's picture ``(…, 2)``, pixels, from which the head measures.
            side (int): Longest side S in pixels.
        """
        focal = (intrinsics[..., 0, 0] + intrinsics[..., 1, 1]) / 2
        place = camera_to_translation(camera, focal, side)
        shift = (centres - intrinsics[..., :2, 2]) / focal[..., None] * place[..., 2:]
        return torch.cat([place[..., :2] + shift, place[..., 2:]], dim=-1)

    @staticmethod
    def keypoints(joints: Tensor, intrinsics: Tensor) -> Tensor:
        """Projects joints ``(…, J, 3)`` with the cameras of their pictures ``(…, 3, 3)``; pixels ``(…, J, 2)``."""
        return project(joints, intrinsics, near=0.1)
