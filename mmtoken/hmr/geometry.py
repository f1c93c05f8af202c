"""Rotations, the pinhole camera and alignment: plain torch, batched, differentiable.

Lengths are metres, image positions pixels: (0, 0) is the upper left corner of the picture.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: Field of view over the longest side that SAT-HMR and Multi-HMR assume, degrees.
FOV = 60.0


# ------------------------------------------------------------------ rotations
def axis_angle_to_matrix(vector: Tensor) -> Tensor:
    """Turns axis-angle vectors into rotation matrices (Rodrigues' formula), exact and smooth at zero.

    Args:
        vector (Tensor): ``(…, 3)``, the axis times the angle in radians.

    Returns:
        Tensor: ``(…, 3, 3)``.
    """
    squared = vector.square().sum(-1)[..., None, None]
    small = squared < 1e-6
    safe = torch.where(small, 1.0, squared)
    angle = safe.sqrt()
    # R = 1 + sin(a)/a K + (1 - cos(a))/a² K², with the first terms of both series where a is nearly 0.
    first = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    second = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / safe)
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    return torch.eye(3, dtype=vector.dtype, device=vector.device) + first * cross + second * (cross @ cross)


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Turns rotation matrices into unit quaternions ``(…, 4)``, real part first and not negative.

    Of four equivalent formulas the one with the largest denominator is taken, so no rotation is a special case.

    Args:
        matrix (Tensor): ``(…, 3, 3)``.
    """
    m = matrix
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    # Four times the squares of w, x, y, z.
    squares = torch.stack([1 + xx + yy + zz, 1 + xx - yy - zz, 1 - xx + yy - zz, 1 - xx - yy + zz], dim=-1)
    wx, wy, wz = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    xy, xz, yz = m[..., 1, 0] + m[..., 0, 1], m[..., 2, 0] + m[..., 0, 2], m[..., 2, 1] + m[..., 1, 2]
    rows = [squares[..., 0], wx, wy, wz, wx, squares[..., 1], xy, xz, wy, xy, squares[..., 2], yz]
    table = torch.stack([*rows, wz, xz, yz, squares[..., 3]], dim=-1).unflatten(-1, (4, 4))
    best = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = F.normalize(table.gather(-2, best).squeeze(-2), dim=-1)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """Turns rotation matrices ``(…, 3, 3)`` into axis-angle vectors ``(…, 3)`` of at most π radians."""
    quaternion = matrix_to_quaternion(matrix)
    real, axis = quaternion[..., :1], quaternion[..., 1:]
    squared = axis.square().sum(-1, keepdim=True)
    small = squared < 1e-8
    sine = torch.where(small, 1.0, squared).sqrt()
    return axis * torch.where(small, 2 / real.clamp(min=0.5), 2 * torch.atan2(sine, real) / sine)


def rotation_6d_to_matrix(columns: Tensor) -> Tensor:
    """Turns two columns into a rotation matrix by Gram-Schmidt (arXiv 1812.07035, eq. 14).

    Args:
        columns (Tensor): ``(…, 6)``: the first two columns of a matrix, interleaved, as ``(…, 3, 2)`` lies in memory.
            That is the order of SPIN, of SAT-HMR and of ``smpl_mean_params.npz``. They need be neither of length 1 nor
            at right angles.

    Returns:
        Tensor: ``(…, 3, 3)``.
    """
    first, second = columns.unflatten(-1, (3, 2)).unbind(-1)
    first = F.normalize(first, dim=-1)
    second = F.normalize(second - (first * second).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


def matrix_to_rotation_6d(matrix: Tensor) -> Tensor:
    """Returns the first two columns ``(…, 6)`` of matrices ``(…, 3, 3)``; see :func:`rotation_6d_to_matrix`."""
    return matrix[..., :2].flatten(-2)


# ------------------------------------------------------------------ the camera
def fov_intrinsics(size: tuple[int, int], fov: float = FOV) -> Tensor:
    """Returns the camera ``(3, 3)`` of a picture whose longest side is seen under ``fov``.

    Args:
        size (tuple[int, int]): Height and width of the picture without padding, pixels.
        fov (float): Field of view in degrees, between 0 and 180.

    Raises:
        ValueError: For another field of view.
    """
    if not 0 < fov < 180:
        raise ValueError(f'fov={fov!r} must be an angle in degrees between 0 and 180, such as {FOV}.')
    height, width = size
    focal = max(height, width) / (2 * math.tan(math.radians(fov) / 2))
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)


def project(points: Tensor, intrinsics: Tensor, near: float = 1e-3) -> Tensor:
    """Projects points onto the picture.

    Args:
        points (Tensor): ``(…, K, 3)``, metres, in front of the camera.
        intrinsics (Tensor): ``(3, 3)`` or ``(…, 3, 3)``.
        near (float): Smallest depth: points behind it are projected as if they were there, so test ``points[..., 2]``
            where that can happen.

    Returns:
        Tensor: ``(…, K, 2)``, pixels.
    """
    image = points @ intrinsics.transpose(-1, -2)
    return image[..., :2] / image[..., 2:].clamp(min=near)


def camera_to_translation(camera: Tensor, focal: Tensor | float, side: float) -> Tensor:
    """Turns a weak-perspective prediction into a translation (SAT-HMR's camera head).

    ``s = 2·sigmoid(w) + 1e-6``, ``t_z = 2f / (s·S)``, ``(t_x, t_y) = (u, v) / s``.

    Args:
        camera (Tensor): ``(…, 3)``: u, v and w.
        focal (Tensor | float): Focal length f in pixels, of a shape that broadcasts to ``(…)``.
        side (float): Longest side S of the picture in pixels.

    Returns:
        Tensor: ``(…, 3)``, metres.
    """
    scale = 2 * camera[..., 2].sigmoid() + 1e-6
    depth = 2 * focal / (scale * side)
    return torch.cat([camera[..., :2] / scale[..., None], depth[..., None]], dim=-1)


def points_to_boxes(points: Tensor, size: tuple[int, int] | None = None, enlarge: float = 1.0) -> Tensor:
    """Returns the boxes around points.

    Args:
        points (Tensor): ``(…, K, 2)``, pixels.
        size (tuple[int, int], optional): Height and width to clip to; None does not clip.
        enlarge (float): Factor on width and height about the centre, before clipping.

    Returns:
        Tensor: ``(…, 4)``: left, top, right, bottom, pixels.
    """
    low, high = points.amin(-2), points.amax(-2)
    centre, half = (low + high) / 2, (high - low) / 2 * enlarge
    low, high = centre - half, centre + half
    if size is not None:
        limit = points.new_tensor([size[1], size[0]])
        low, high = low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)
    return torch.cat([low, high], dim=-1)


# ------------------------------------------------------------------ alignment
def procrustes(points: Tensor, target: Tensor) -> Tensor:
    """Moves, turns and scales points onto others, with the least squared error (Umeyama 1991, eq. 40-42).

    Args:
        points (Tensor): ``(…, K, 3)``.
        target (Tensor): ``(…, K, 3)``.

    Returns:
        Tensor: ``points``, aligned. Mirroring is never used. Points that all coincide go to the target's centre.
    """
    mean, goal = points.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    p, t = points - mean, target - goal
    u, s, vh = torch.linalg.svd(p.transpose(-1, -2) @ t)
    sign = torch.ones_like(s)
    sign[..., 2] = torch.linalg.det(u @ vh).sign()
    turn = (u * sign[..., None, :]) @ vh
    spread = p.square().sum((-2, -1))
    scale = (s * sign).sum(-1) / spread.clamp(min=torch.finfo(p.dtype).tiny)
    return scale[..., None, None] * (p @ turn) + goal
