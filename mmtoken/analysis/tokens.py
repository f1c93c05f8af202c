"""Pictures of which patches share a token."""

import cv2
import numpy as np


def colorize_groups(index: np.ndarray) -> np.ndarray:
    """Gives each group of patches a colour: random ones, the same at every call, far from those of its neighbours.

    Args:
        index (np.ndarray): Group of each patch ``(H, W)``, any integers; only who shares one matters.

    Returns:
        np.ndarray: ``(H, W, 3)``, uint8.
    """
    _, group = np.unique(index, return_inverse=True)
    group = group.reshape(index.shape)
    pairs = np.concatenate([
        np.stack([group[1:], group[:-1]], -1).reshape(-1, 2),
        np.stack([group[:, 1:], group[:, :-1]], -1).reshape(-1, 2)
    ])
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    earlier = [[] for _ in range(group.max() + 1)]  # neighbours that have their colour by then
    for first, second in pairs:
        earlier[second].append(first)
    candidates = np.random.default_rng(0).integers(40, 256, (len(earlier), 12, 3))
    colors = candidates[:, 0].copy()
    for number, neighbours in enumerate(earlier):
        if neighbours:
            distance = np.abs(candidates[number][:, None] - colors[neighbours]).sum(-1).min(1)
            colors[number] = candidates[number][distance.argmax()]
    return colors.astype(np.uint8)[group]


def overlay_groups(image: np.ndarray, index: np.ndarray, alpha: float = 0.0, color=(255, 255, 255)) -> np.ndarray:
    """Draws the borders between groups of patches onto a picture.

    Args:
        image (np.ndarray): ``(h, w, 3)``, uint8; resized to a whole number of pixels for each patch.
        index (np.ndarray): Group of each patch ``(H, W)``, integers.
        alpha (float): How much of :func:`colorize_groups` to mix in, 0 to 1. Defaults to 0.
        color (tuple[int, int, int]): Colour of the borders. Defaults to white.

    Returns:
        np.ndarray: ``(H·s, W·s, 3)``, uint8, where s is the patch size in pixels, at least 2.
    """
    side = max(2, round(image.shape[0] / index.shape[0]))
    height, width = index.shape[0] * side, index.shape[1] * side
    out = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    groups = index.repeat(side, 0).repeat(side, 1)
    if alpha:
        colors = colorize_groups(index).repeat(side, 0).repeat(side, 1)
        out = cv2.addWeighted(out, 1 - alpha, colors, alpha, 0)
    border = np.zeros(groups.shape, bool)
    border[1:] |= groups[1:] != groups[:-1]
    border[:, 1:] |= groups[:, 1:] != groups[:, :-1]
    out[border] = color
    return out
