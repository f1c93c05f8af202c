"""Meshes drawn over a picture."""

import colorsys

import cv2
import numpy as np
import torch

from .raster import FAR, covered, rasterize
from .shading import light_on, vertex_normals

#: Pictures with fewer pixels on their longest side are drawn at twice their size, for smooth edges.
SMALL = 1000


def person_colors(number: int) -> np.ndarray:
    """Returns colours ``(N, 3)``, RGB, 0 to 1, neighbours far apart."""
    hues = (0.58 + 0.618 * np.arange(number)) % 1
    return np.array([colorsys.hsv_to_rgb(h, 0.55, 0.95) for h in hues]).reshape(-1, 3)


def draw_meshes(
    image: np.ndarray,
    vertices: np.ndarray,
    faces: np.ndarray,
    intrinsics: np.ndarray,
    colors: np.ndarray | None = None,
    alpha: float = 0.9,
) -> np.ndarray:
    """Draws people over a picture, the nearer ones before the others.

    Args:
        image (np.ndarray): ``(H, W, 3)``, uint8, RGB.
        vertices (np.ndarray): ``(N, V, 3)``, metres, in the camera's frame.
        faces (np.ndarray): ``(F, 3)``, int.
        intrinsics (np.ndarray): ``(3, 3)``, pixels.
        colors (np.ndarray, optional): ``(N, 3)``, RGB, 0 to 1; None takes :func:`person_colors`.
        alpha (float): How far meshes cover the picture, 0 to 1. Defaults to 0.9.

    Returns:
        np.ndarray: ``(H, W, 3)``, uint8, RGB.
    """
    if not len(vertices):
        return image.copy()
    times = 2 if max(image.shape[:2]) < SMALL else 1
    size = image.shape[0] * times, image.shape[1] * times
    camera = np.diag([times, times, 1]) @ np.asarray(intrinsics, np.float64)
    colors = person_colors(len(vertices)) if colors is None else np.asarray(colors)
    normals = vertex_normals(torch.from_numpy(vertices), torch.from_numpy(np.asarray(faces, np.int64))).numpy()
    light = np.array([-0.35, -0.6, -0.72])
    bright = light_on(normals, light / np.linalg.norm(light), np.array([0.0, -1, 0]))
    shades = (colors[:, None] * bright[..., None]).reshape(-1, 3).clip(0, 1).astype(np.float32)
    all_faces = np.concatenate([faces + i * vertices.shape[1] for i in range(len(vertices))])
    depth = np.full(size, FAR, np.float32)
    drawn: np.ndarray = np.zeros((*size, 3), np.float32)
    rasterize(vertices.reshape(-1, 3), all_faces, shades, camera, drawn, depth)
    mask: np.ndarray = covered(depth).astype(np.float32)
    if times > 1:
        drawn = cv2.resize(drawn, image.shape[1::-1], interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_AREA)
    mixed = (
        image * (1 - alpha * mask[..., None]) + 255 * alpha * drawn
    )  # empty pixels of drawn are black: premultiplied
    return mixed.round().clip(0, 255).astype(np.uint8)
