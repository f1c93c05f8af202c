"""Scale maps and token maps over a picture."""

import cv2
import numpy as np

#: Colours of the levels of tokens, RGB: fine, one a cell, pooled once, pooled twice.
LEVELS = np.array([[228, 70, 60], [250, 200, 70], [80, 150, 220], [110, 110, 170]])


def draw_scale_map(image: np.ndarray, maps: np.ndarray, cell: int, alpha: float = 0.55) -> np.ndarray:
    """Colours cells that show somebody, from red for small people to blue for large ones.

    Args:
        image (np.ndarray): ``(H, W, 3)``, uint8, RGB.
        maps (np.ndarray): ``(2, h, w)``: confidence and scale, 0 to 1.
        cell (int): Side of a cell, pixels.
        alpha (float): How far a cell of confidence 1 is covered. Defaults to 0.55.

    Returns:
        np.ndarray: ``(H, W, 3)``, uint8, RGB.
    """
    hue = (120 * np.clip(maps[1], 0, 1)).round().astype(np.uint8)
    colors = cv2.cvtColor(np.dstack([hue, np.full_like(hue, 210), np.full_like(hue, 255)]), cv2.COLOR_HSV2RGB)
    colors, cover = (_enlarge(x, cell, image.shape) for x in (colors, maps[0].astype(np.float32)))
    cover = alpha * cover.clip(0, 1)[..., None]
    return (image * (1 - cover) + colors * cover).round().astype(np.uint8)


def draw_token_map(image: np.ndarray, levels: np.ndarray, cell: int, alpha: float = 0.3) -> np.ndarray:
    """Draws tokens: four in a cell of level 0, one in a cell of level 1, one in 2×2 cells of level 2, one in 4×4.

    Args:
        image (np.ndarray): ``(H, W, 3)``, uint8, RGB.
        levels (np.ndarray): ``(h, w)``, int, level of each cell.
        cell (int): Side of a cell, pixels.
        alpha (float): How far cells are covered. Defaults to 0.3.

    Returns:
        np.ndarray: ``(H, W, 3)``, uint8, RGB.
    """
    colors = _enlarge(LEVELS[levels.clip(0, 3)].astype(np.uint8), cell, image.shape)
    drawn = (image * (1 - alpha) + colors * alpha).round().astype(np.uint8)
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    side = _enlarge((cell * 2.0 ** (levels - 1)).astype(np.float32), cell, image.shape)
    border = (y % side < 1) | (x % side < 1)
    drawn[border] = (0.35 * drawn[border] + 0.65 * 255 * 0.9).astype(np.uint8)
    return drawn


def _enlarge(maps: np.ndarray, cell: int, shape: tuple) -> np.ndarray:
    """Gives each cell its pixels, and cuts what lies beyond the picture off."""
    large = maps.repeat(cell, 0).repeat(cell, 1)[: shape[0], : shape[1]]
    missing = [(0, shape[i] - large.shape[i]) for i in (0, 1)]
    return np.pad(large, missing + [(0, 0)] * (large.ndim - 2))
