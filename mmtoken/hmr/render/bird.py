"""People seen from above."""

import cv2
import numpy as np

from .overlay import person_colors

INK, LINE = (70, 70, 70), (215, 215, 215)


def draw_birds_eye(
    vertices: np.ndarray,
    size: int = 640,
    fov: float = 60.0,
    colors: np.ndarray | None = None,
    reach: float | None = None,
) -> np.ndarray:
    """Draws outlines of people from above: the camera at the bottom, what it sees between two lines, a grid in metres.

    Args:
        vertices (np.ndarray): ``(N, V, 3)``, metres, in the camera's frame.
        size (int): Height and width of the drawing, pixels. Defaults to 640.
        fov (float): Angle between the lines, degrees. Defaults to 60.
        colors (np.ndarray, optional): ``(N, 3)``, RGB, 0 to 1; None takes :func:`~.overlay.person_colors`.
        reach (float, optional): Metres from the camera to the top; None takes all people in.

    Returns:
        np.ndarray: ``(size, size, 3)``, uint8, RGB.
    """
    colors = person_colors(len(vertices)) if colors is None else colors
    if reach is None:
        reach = 1.15 * max([4.0, *vertices[..., 2].max(1).tolist(), *(2 * abs(vertices[..., 0]).max(1)).tolist()])
    scale = 0.94 * size / reach
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if reach / step <= 8)
    canvas = np.full((size, size, 3), 250, np.uint8)

    def at(x: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.stack([size / 2 + x * scale, 0.97 * size - z * scale], axis=-1).clip(-1e5, 1e5).round().astype(int)

    for i in range(1, int(reach / step) + 1):
        row = int(at(np.float64(0), np.float64(i * step))[1])
        cv2.line(canvas, (0, row), (size, row), LINE, 1)
        cv2.putText(canvas, f'{i * step:g} m', (6, row - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, INK, 1, cv2.LINE_AA)
    edge = np.tan(np.radians(fov / 2)) * reach
    for side in (-edge, edge):
        start, end = at(np.array([0, side]), np.array([0, reach])).tolist()
        cv2.line(canvas, start, end, (160, 160, 160), 1, cv2.LINE_AA)
    for i in np.argsort(-vertices[..., 2].mean(1)):
        outline = cv2.convexHull(at(vertices[i, :, 0], vertices[i, :, 2]).astype(np.int32))
        color = (255 * colors[i]).tolist()
        cv2.fillConvexPoly(canvas, outline, color, cv2.LINE_AA)
        cv2.polylines(canvas, [outline], True, INK, 1, cv2.LINE_AA)
    cv2.circle(canvas, tuple(at(np.float64(0), np.float64(0)).tolist()), 5, INK, -1, cv2.LINE_AA)
    return canvas
