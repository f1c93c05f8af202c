"""Cameras of a batch: those that the data know, or one of a fixed field of view."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmtoken.core.arguments import check_flag, check_number
from mmtoken.hmr.geometry import FOV, camera_to_translation, fov_intrinsics, project

#: Diagonal of the box of somebody who stands, metres: labels' boxes are 1.2 times as large as the skeleton.
BOX_DIAGONAL = 2.1


class Cameras:
    """Places people in front of the cameras of their pictures, and projects them.

    A prediction of the camera head says where in the picture somebody stands and how large; the focal length turns
    that into metres. The pelvis of the body model stays at its own offset.

    Args:
        fov (float): Field of view over the longest side where the camera is not known, degrees. Defaults to 60.
        known (bool): Take the camera of a sample, ``cam_intrinsics``, where it has one; the paper's code never does.
            Defaults to True.
        anchored (bool): Let the camera head say where somebody stands in the query's box, and how large in it, instead
            of in the picture. A decoder on a frozen backbone learns that in far fewer steps, as its tokens hardly tell
            where they lie. Defaults to False, as in the paper.

    Raises:
        ValueError: For another field of view, or no switch.
    """

    def __init__(self, fov: float = FOV, known: bool = True, anchored: bool = False):
        self.fov = check_number('camera.fov', fov, 0, 180, above=True, below=True)
        self.known = check_flag('camera.known', known)
        self.anchored = check_flag('camera.anchored', anchored)

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

    def translations(self, camera: Tensor, boxes: Tensor, intrinsics: Tensor, centres: Tensor, side: int) -> Tensor:
        """Returns where people stand ``(…, 3)``, metres.

        Args:
            camera (Tensor): Output of the camera head ``(…, 3)``.
            boxes (Tensor): Boxes of the same queries ``(…, 4)``: centre and size, in parts of S.
            intrinsics (Tensor): Of each person's picture ``(…, 3, 3)``.
            centres (Tensor): Centre of each person's picture ``(…, 2)``, pixels, from which the head measures.
            side (int): Longest side S in pixels.
        """
        if self.anchored:
            camera = camera + box_to_camera(boxes.detach(), centres / side)
        focal = (intrinsics[..., 0, 0] + intrinsics[..., 1, 1]) / 2
        place = camera_to_translation(camera, focal, side)
        shift = (centres - intrinsics[..., :2, 2]) / focal[..., None] * place[..., 2:]
        return torch.cat([place[..., :2] + shift, place[..., 2:]], dim=-1)

    @staticmethod
    def keypoints(joints: Tensor, intrinsics: Tensor) -> Tensor:
        """Projects joints ``(…, J, 3)`` with the cameras of their pictures ``(…, 3, 3)``; pixels ``(…, J, 2)``."""
        return project(joints, intrinsics, near=0.1)


def box_to_camera(boxes: Tensor, centres: Tensor) -> Tensor:
    """Returns the camera head's numbers ``(…, 3)`` for people of middling height who fill their boxes.

    A metre covers half of ``s·S`` pixels, where ``s = 2·sigmoid(w)``, and u and v are in halves of S from the centre.

    Args:
        boxes (Tensor): Centre and size ``(…, 4)``, in parts of S.
        centres (Tensor): Centre of each picture ``(…, 2)``, in parts of S.
    """
    metre = boxes[..., 2:].norm(dim=-1, keepdim=True) / BOX_DIAGONAL
    return torch.cat([2 * (boxes[..., :2] - centres), metre.logit(eps=1e-3)], dim=-1)
