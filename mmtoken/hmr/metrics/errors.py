"""How far predicted people are from labelled ones, in millimetres."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmtoken.hmr.geometry import procrustes

#: Of the 17 joints that Human3.6M's regressor gives, the 14 that 3DPW is evaluated on.
EVALUATED = (1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16)


@dataclass
class Protocol:
    """What a benchmark compares.

    Args:
        regressor (Tensor, optional): Joints out of vertices ``(K, V)``; None takes the body's 24.
        root (tuple[int, …]): Joints whose mean is laid onto that of the label.
        joints (tuple[int, …], optional): Joints that count; None counts all.
        vertices (Tensor, optional): Vertices that count ``(W,)``, int64; None counts all.
    """

    regressor: Tensor | None = None
    root: tuple[int, ...] = (1, 2)
    joints: tuple[int, ...] | None = None
    vertices: Tensor | None = None

    def errors(self, predicted: tuple[Tensor, Tensor], labelled: tuple[Tensor, Tensor]) -> dict[str, np.ndarray]:
        """Compares people.

        Args:
            predicted (tuple[Tensor, Tensor]): Vertices ``(N, V, 3)`` and joints ``(N, ≥ 24, 3)``, metres.
            labelled (tuple[Tensor, Tensor]): Those of the labels.

        Returns:
            dict[str, np.ndarray]: ``joints (N, K)``: distance of each joint, roots laid onto each other; ``aligned
            (N,)``: its mean after the best similarity; ``vertices (N,)``: mean distance of the vertices, roots laid
            onto each other. mm.
        """
        bodies = [self._centred(*body) for body in (predicted, labelled)]
        (skin, joints), (goal_skin, goal_joints) = bodies
        off = (joints - goal_joints).norm(dim=-1)
        aligned = (procrustes(joints, goal_joints) - goal_joints).norm(dim=-1).mean(-1)
        surface = (skin - goal_skin).norm(dim=-1).mean(-1)
        return {name: 1e3 * x.numpy() for name, x in (('joints', off), ('aligned', aligned), ('vertices', surface))}

    def _centred(self, vertices: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
        vertices, joints = vertices.double(), joints.double()
        joints = joints[:, :24] if self.regressor is None else self.regressor.double() @ vertices
        root = joints[:, list(self.root)].mean(1, keepdim=True)
        vertices = vertices if self.vertices is None else vertices[:, self.vertices]
        joints = joints if self.joints is None else joints[:, list(self.joints)]
        return vertices - root, joints - root


def threedpw(regressor: np.ndarray) -> Protocol:
    """Returns the protocol of 3DPW: 14 joints of Human3.6M's regressor ``(17, V)``, its joint 0 as the root."""
    return Protocol(torch.from_numpy(np.asarray(regressor, np.float64)), (0,), EVALUATED)
