"""How light falls on a mesh."""

import numpy as np
import torch
from torch import Tensor


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Returns the normals of vertices ``(N, V, 3)``, length 1: the mean of those of the faces around, by their areas.

    Args:
        vertices (Tensor): ``(N, V, 3)``.
        faces (Tensor): ``(F, 3)``, int64, counter-clockwise seen from outside.
    """
    a, b, c = vertices[:, faces].unbind(2)
    across = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(vertices)
    for corner in faces.unbind(1):
        normals.index_add_(1, corner, across)
    return torch.nn.functional.normalize(normals, dim=-1)


def light_on(normals: np.ndarray, light: np.ndarray, up: np.ndarray, ambient: float = 0.45) -> np.ndarray:
    """Returns how bright surfaces are ``(…,)``, 0 to 1: one far light, and a sky that is brighter than the ground.

    Args:
        normals (np.ndarray): ``(…, 3)``, length 1.
        light (np.ndarray): ``(3,)``, from the surface to the light, length 1.
        up (np.ndarray): ``(3,)``, away from the ground, length 1.
        ambient (float): Brightness from above where the light does not shine. Half of it comes from below.
    """
    sky = ambient * (0.75 + 0.25 * (normals @ up))
    return sky + (1 - ambient) * (normals @ light).clip(0)
