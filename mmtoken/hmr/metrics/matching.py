"""Who is who: pairs of predicted and labelled people, as AGORA's protocol makes them."""

import numpy as np


def joint_boxes(keypoints: np.ndarray) -> np.ndarray:
    """Returns the boxes around joints ``(…, K, 2)``: left, top, right, bottom ``(…, 4)``."""
    return np.concatenate([keypoints.min(-2), keypoints.max(-2)], axis=-1)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the overlap (IoU) ``(N, M)`` of boxes ``(N, 4)`` and ``(M, 4)`` in pixels, sides one pixel longer."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low + 1).clip(0).prod(-1)
    sizes = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(-1) for boxes in (a, b)]
    return shared / (sizes[0][:, None] + sizes[1][None] - shared)


def match_people(predicted: np.ndarray, labelled: np.ndarray, least: float = 0.1) -> list[tuple[int, int]]:
    """Pairs people greedily, the closest first.

    Args:
        predicted (np.ndarray): Joints in the picture ``(N, K, 2)``, pixels.
        labelled (np.ndarray): Joints in the picture ``(M, K, 2)``, pixels.
        least (float): Least overlap (IoU) of the boxes around the joints. Defaults to 0.1.

    Returns:
        list[tuple[int, int]]: Numbers of a predicted and of a labelled person; nobody comes twice.
    """
    if not len(predicted) or not len(labelled):
        return []
    away = np.linalg.norm(predicted[:, None] - labelled[None], axis=-1).mean(-1)
    good = overlaps(joint_boxes(predicted), joint_boxes(labelled)) >= least
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = set(), set()
    for at in np.argsort(away, axis=None, kind='stable').tolist():
        i, j = divmod(at, len(labelled))
        if good[i, j] and i not in used[0] and j not in used[1]:
            pairs.append((i, j))
            used[0].add(i)
            used[1].add(j)
    return pairs
