"""Linear blend skinning as SMPL does it (Loper et al. 2015, eq. 2-10), in plain torch."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmtoken.core.arguments import check_int
from mmtoken.hmr.geometry import axis_angle_to_matrix

from .joints import FLIP_JOINTS, JOINT_NAMES, LEVELS, PARENTS


class BodyOutput(NamedTuple):
    """What a body model returns.

    Args:
        vertices (Tensor): ``(N, V, 3)``, metres.
        joints (Tensor): ``(N, 45, 3)``, metres: the skeleton's 24, then 21 of face, feet and finger tips.
    """

    vertices: Tensor
    joints: Tensor


class SkinnedBody(nn.Module):
    """A body in SMPL's format: 24 joints, a linear shape space, blend skinning.

    At rest the body stands in a T, y up, looking along z. In the camera's frame y points down: upright people have a
    global orientation of about half a turn around x, as ``mean_pose`` has.

    Args:
        data (Mapping): ``v_template (V, 3)``, ``shapedirs (V, 3, ≥ num_betas)``, ``J_regressor (24, V)``,
            ``weights (V, 24)``, ``f (F, 3)``, ``landmarks (21,)`` (vertices that are joints) and, if the shape
            depends on the pose, ``posedirs (V, 3, 207)``.
        num_betas (int): Coefficients of the shape space that are used. Defaults to 10.

    Raises:
        ValueError: For more coefficients than there are.

    Attributes:
        faces (Tensor): ``(F, 3)``, int64, counter-clockwise seen from outside.
        joint_names (tuple[str, …]): Of the 45 joints.
        flip_joints (tuple[int, …]): Which of the 45 joints each one becomes in a mirror.
        num_joints (int): 24, those that have a rotation.
        mean_pose (Tensor): ``(24, 3)``, axis-angle: relaxed, standing, facing the camera.
        mean_shape (Tensor): ``(num_betas,)``.
    """

    joint_names = JOINT_NAMES
    flip_joints = FLIP_JOINTS
    parents = PARENTS
    num_joints = 24

    # Buffers.
    faces: Tensor
    mean_pose: Tensor
    mean_shape: Tensor
    template: Tensor
    shapes: Tensor
    regressor: Tensor
    rest_joints: Tensor
    joint_shapes: Tensor
    weights: Tensor
    correctives: Tensor | None
    landmarks: Tensor
    above: Tensor
    above_in_level: Tensor

    def __init__(self, data: Mapping[str, Any], num_betas: int = 10):
        super().__init__()
        known = np.shape(data['shapedirs'])[2]
        self.num_betas = check_int('num_betas', num_betas, 1, known)
        template, shapes = _float(data['v_template']), _float(data['shapedirs'])[:, :, :num_betas]
        regressor = _float(data['J_regressor'])
        self.register_buffer('template', template, persistent=False)
        self.register_buffer('shapes', shapes.flatten(0, 1).T.contiguous(), persistent=False)  # (betas, V·3)
        self.register_buffer('regressor', regressor, persistent=False)
        # Both are linear, so joints at rest need no vertices.
        self.register_buffer('rest_joints', regressor @ template, persistent=False)
        joint_shapes = torch.einsum('jv,vcb->bjc', regressor, shapes).flatten(1)
        self.register_buffer('joint_shapes', joint_shapes, persistent=False)
        self.register_buffer('weights', _float(data['weights']), persistent=False)
        correctives = _float(data['posedirs']).flatten(0, 1).T.contiguous() if 'posedirs' in data else None
        self.register_buffer('correctives', correctives, persistent=False)  # (207, V·3)
        self.register_buffer('faces', _long(data['f']), persistent=False)
        self.register_buffer('landmarks', _long(data['landmarks']), persistent=False)
        above = torch.tensor(PARENTS[1:])
        first = torch.tensor([0, *LEVELS]).cumsum(0)[:-1]  # joint of each level
        level = torch.searchsorted(first, above, right=True) - 1
        self.register_buffer('above', above, persistent=False)
        self.register_buffer('above_in_level', torch.cat([above[:1], above - first[level]]), persistent=False)
        self.register_buffer('mean_pose', relaxed_pose(), persistent=False)
        self.register_buffer('mean_shape', torch.zeros(num_betas), persistent=False)

    def forward(self, pose: Tensor, betas: Tensor, transl: Tensor | None = None) -> BodyOutput:
        """Poses people.

        Args:
            pose (Tensor): ``(N, 24, 3)``, axis-angle in radians: the global orientation, then each joint in its
                parent's frame. Or their rotation matrices ``(N, 24, 3, 3)``.
            betas (Tensor): ``(N, num_betas)``.
            transl (Tensor, optional): ``(N, 3)``, metres, added at the end.

        Raises:
            ValueError: For other shapes.
        """
        people = len(pose)
        if pose.shape not in ((people, 24, 3), (people, 24, 3, 3)) or betas.shape != (people, self.num_betas):
            raise ValueError(
                f'pose {tuple(pose.shape)} and betas {tuple(betas.shape)} must be (N, 24, 3) and (N, {self.num_betas}).'
            )
        vertices, skeleton = self.skin(pose, betas)
        joints = torch.cat([skeleton, vertices[:, self.landmarks]], dim=1)
        if transl is not None:
            vertices, joints = vertices + transl[:, None], joints + transl[:, None]
        return BodyOutput(vertices, joints)

    def joints(self, pose: Tensor, betas: Tensor, transl: Tensor | None = None) -> Tensor:
        """Returns the joints that :meth:`forward` gives, at a fraction of its cost."""
        vertices, skeleton = self.skin(pose, betas, self.landmarks)
        joints = torch.cat([skeleton, vertices], dim=1)
        return joints if transl is None else joints + transl[:, None]

    def skin(self, pose: Tensor, betas: Tensor, some: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns vertices ``(N, V, 3)`` and the skeleton's joints ``(N, 24, 3)``.

        Args:
            pose (Tensor): See :meth:`forward`.
            betas (Tensor): See :meth:`forward`.
            some (Tensor, optional): Vertices that are wanted ``(V',)``, int64; all by default.
        """
        rows = slice(None) if some is None else some
        rotations = pose if pose.dim() == 4 else axis_angle_to_matrix(pose)
        shapes = self.shapes.unflatten(1, (-1, 3))[:, rows].flatten(1)
        vertices = self.template[rows] + (betas @ shapes).unflatten(1, (-1, 3))
        joints = self.rest_joints + (betas @ self.joint_shapes).unflatten(1, (-1, 3))
        if self.correctives is not None:
            bent = rotations[:, 1:] - torch.eye(3, dtype=pose.dtype, device=pose.device)
            correctives = self.correctives.unflatten(1, (-1, 3))[:, rows].flatten(1)
            vertices = vertices + (bent.flatten(1) @ correctives).unflatten(1, (-1, 3))
        turns, posed = self.chain(rotations, joints)
        # Each joint maps x at rest to R x + t; a vertex goes by the weighted mean of these maps.
        offsets = posed - (turns @ joints[..., None])[..., 0]
        maps = torch.cat([turns, offsets[..., None]], dim=-1).flatten(2)
        maps = (self.weights[rows] @ maps).unflatten(2, (3, 4))
        return (maps[..., :3] @ vertices[..., None])[..., 0] + maps[..., 3], posed

    def pelvis(self, betas: Tensor) -> Tensor:
        """Returns where the pelvis of bodies ``(N, num_betas)`` is at rest, without translation ``(N, 3)``, metres."""
        return self.rest_joints[0] + betas @ self.joint_shapes[:, :3]

    def chain(self, rotations: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        """Walks down the skeleton.

        Args:
            rotations (Tensor): ``(N, 24, 3, 3)``, each in the parent's frame.
            joints (Tensor): ``(N, 24, 3)``, at rest.

        Returns:
            tuple[Tensor, Tensor]: Rotation of each joint against the rest ``(N, 24, 3, 3)``, and its place ``(N, 24,
                3)``.
        """
        bones = torch.cat([joints[:, :1], joints[:, 1:] - joints[:, self.above]], dim=1)
        turns: list[Tensor] = []
        places: list[Tensor] = []
        for turn, bone, up in zip(*(x.split(LEVELS, 1) for x in (rotations, bones)), self.above_in_level.split(LEVELS)):
            if turns:
                before = turns[-1][:, up]
                turn, bone = before @ turn, places[-1][:, up] + (before @ bone[..., None])[..., 0]
            turns.append(turn)
            places.append(bone)
        return torch.cat(turns, dim=1), torch.cat(places, dim=1)


def relaxed_pose() -> Tensor:
    """Returns a pose ``(24, 3)`` that people often take: standing upright before the camera, arms down."""
    pose = torch.zeros(24, 3)
    pose[0, 0] = math.pi
    pose[16, 2], pose[17, 2] = -1.2, 1.2  # shoulders
    pose[18, 1], pose[19, 1] = -0.3, 0.3  # elbows
    return pose


def _float(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def _long(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, np.int64))
