"""Draws triangles with depth: OpenCV's rasteriser where there is one (version 5), otherwise numpy's z-buffer of ours.

Both take any pinhole camera and give the same picture (``tests/test_hmr/test_raster.py``).
"""

import math

import cv2
import numpy as np

#: Depth of pixels where nothing is, metres; nothing behind it is drawn.
FAR = 1000.0
#: Nothing nearer is drawn, metres.
NEAR = 0.05
#: Whether OpenCV draws.
FAST = hasattr(cv2, 'triangleRasterize')
#: Pixels that the numpy z-buffer looks at in one go.
CHUNK = 2_000_000


def rasterize(
    vertices: np.ndarray,
    faces: np.ndarray,
    colors: np.ndarray,
    intrinsics: np.ndarray,
    image: np.ndarray,
    depth: np.ndarray,
    fast: bool = FAST,
) -> None:
    """Draws triangles into a picture and its depth, in place; what is nearer already stays.

    Args:
        vertices (np.ndarray): ``(V, 3)``, metres, in the camera's frame.
        faces (np.ndarray): ``(F, 3)``, int; seen from both sides.
        colors (np.ndarray): ``(V, 3)``, 0 to 1, blended over each triangle.
        intrinsics (np.ndarray): ``(3, 3)``, without skew. A point at (x, y) lies in pixel ``image[int(y), int(x)]``.
        image (np.ndarray): ``(H, W, 3)``, float32.
        depth (np.ndarray): ``(H, W)``, float32, metres; :data:`FAR` where nothing is, see :func:`covered`.
        fast (bool): Let OpenCV draw. Triangles that cross :data:`NEAR` are cut by OpenCV and left out by numpy.
    """
    if not len(faces):
        return
    if fast:
        _opencv(vertices, faces, colors, intrinsics, image, depth)
    else:
        _numpy(vertices, faces, colors, intrinsics, image, depth)


def covered(depth: np.ndarray) -> np.ndarray:
    """Returns the pixels ``(H, W)`` where something is, bool; OpenCV rounds :data:`FAR`."""
    return depth < 0.99 * FAR


def _opencv(vertices, faces, colors, intrinsics, image, depth) -> None:
    """OpenCV's camera looks along -z, has square pixels and its centre in the middle: x and y are sheared to fit it."""
    height, width = depth.shape
    x, y, z = np.asarray(vertices, np.float32).T
    focal = np.float32(intrinsics[1, 1])
    x = (np.float32(intrinsics[0, 0]) * x + np.float32(intrinsics[0, 2] - width / 2) * z) / focal
    y = y + np.float32((intrinsics[1, 2] - height / 2) / focal) * z
    settings = cv2.TriangleRasterizeSettings()
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
    cv2.triangleRasterize(
        np.stack([x, y, z], axis=1)[None],
        np.ascontiguousarray(faces, np.int32)[None],
        np.ascontiguousarray(colors, np.float32)[None],
        image,
        depth,
        np.diag([1, -1, -1, 1]).astype(np.float32),
        2 * math.atan(height / 2 / float(focal)),
        NEAR,
        FAR,
        settings,
    )


def _numpy(vertices, faces, colors, intrinsics, image, depth) -> None:
    """Tests the pixels in the box of each triangle; triangles with boxes of like sizes go together."""
    height, width = depth.shape
    z = np.maximum(vertices[:, 2], NEAR)
    u = intrinsics[0, 0] * vertices[:, 0] / z + intrinsics[0, 2] - 0.5  # the middle of a pixel is at a half
    v = intrinsics[1, 1] * vertices[:, 1] / z + intrinsics[1, 2] - 0.5
    u, v, z = u[faces], v[faces], vertices[:, 2][faces]
    left, top = np.ceil(u.min(1)).clip(0, width), np.ceil(v.min(1)).clip(0, height)
    right, bottom = np.floor(u.max(1)).clip(-1, width - 1), np.floor(v.max(1)).clip(-1, height - 1)
    area = (u[:, 1] - u[:, 0]) * (v[:, 2] - v[:, 0]) - (v[:, 1] - v[:, 0]) * (u[:, 2] - u[:, 0])
    side = np.maximum(right - left, bottom - top) + 1
    drawn = (z.min(1) > NEAR) & (z.max(1) < FAR) & (right >= left) & (bottom >= top) & (area != 0)
    box = 2 ** np.ceil(np.log2(np.maximum(side, 1))).astype(int)
    for size in np.unique(box[drawn]):
        group = np.flatnonzero(drawn & (box == size))
        for part in np.array_split(group, len(group) * size**2 // CHUNK + 1):
            x = left[part, None] + np.tile(np.arange(size), size)
            y = top[part, None] + np.repeat(np.arange(size), size)
            weights = np.stack([_edge(u[part], v[part], x, y, i) for i in (0, 1, 2)]) / area[part, None]
            inside = (weights >= 0).all(0) & (x < width) & (y < height)
            triangle = np.broadcast_to(part[:, None], x.shape)[inside]
            weights = weights[:, inside] / z[triangle].T  # lines in space are lines in 1/z
            near = 1 / weights.sum(0)
            pixel = y[inside].astype(int) * width + x[inside].astype(int)
            order = np.lexsort((near, pixel))
            first = order[np.diff(pixel[order], prepend=-1) > 0]
            first = first[near[first] < depth.ravel()[pixel[first]]]
            rows, columns = np.divmod(pixel[first], width)
            depth[rows, columns] = near[first]
            blend = (weights[:, first] * near[first]).T[:, :, None]
            image[rows, columns] = (colors[faces[triangle[first]]] * blend).sum(1)


def _edge(u: np.ndarray, v: np.ndarray, x: np.ndarray, y: np.ndarray, corner: int) -> np.ndarray:
    """Returns twice the area of the triangles that pixels make with the side across from a corner, signed."""
    a, b = (corner + 1) % 3, (corner + 2) % 3
    ua, va = u[:, a, None], v[:, a, None]
    return (u[:, b, None] - ua) * (y - va) - (v[:, b, None] - va) * (x - ua)
