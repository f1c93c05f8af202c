"""What becomes of the patches of a picture on their way through a backbone, and pictures of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mmtoken.core.state import TokenState

#: Tokens that are followed at once through the trail; bounds the memory for large grids.
_CHUNK = 1024


def token_of_patches(state: TokenState) -> Tensor:
    """Which of the tokens now stands for each patch: the one with the largest share of it.

    Returns:
        Tensor: ``(B, H·W)``, int64, counted within the image without prefix; -1 for patches of tokens that wait
        elsewhere (:meth:`TokenState.select`) until they are restored.
    """
    p, device = state.num_prefix, state.x.device
    if state.lengths is None:
        place = torch.arange(state.x.shape[1], device=device).expand(state.x.shape[:2])
        total = state.x.shape[1]
    else:
        starts = state.lengths.cumsum(0) - state.lengths
        place = torch.arange(len(state.x), device=device) - starts.repeat_interleave(state.lengths)
        total = int(state.lengths.max())
    batch = len(state.x) if state.lengths is None else len(state.lengths)
    share = best = state.x.new_zeros(batch, state.grid[0] * state.grid[1], dtype=torch.float32)
    index = share.long()
    for first in range(p, total, _CHUNK):
        numbers = torch.arange(first, min(first + _CHUNK, total), device=device)
        values = (place[..., None] == numbers).float()
        for reduction in reversed(state.trail):
            values = reduction.restore.without_saved()(values, p)  # what left has no share in the tokens now
        values = values[:, p:]
        top, which = values.max(-1)
        index = torch.where(top > best, which + first - p, index)
        best, share = torch.maximum(best, top), share + values.sum(-1)
    return index.masked_fill(share < 0.5, -1)


@dataclass
class TokenTrace:
    """Tokens of a batch as they enter the MLP of each block; made by :func:`trace_tokens`.

    Args:
        index (list[np.ndarray]): Token of each patch ``(B, H, W)``, int64, -1 where it left; one entry a block.
        counts (list[np.ndarray]): Patch tokens of each image ``(B,)``, int64; one entry a block.
    """

    index: list[np.ndarray] = field(default_factory=list)
    counts: list[np.ndarray] = field(default_factory=list)

    def left(self, i: int) -> np.ndarray:
        """Returns the first block that skips the token of each patch ``(B, H, W)``; -1 if block ``i`` runs on it."""
        gone = self.index[i] < 0
        left = np.where(gone, i, -1)
        for j in range(i - 1, -1, -1):
            gone &= self.index[j] < 0
            left[gone] = j
        return left

    def changes(self) -> list[int]:
        """Blocks whose patches share tokens otherwise than in the block before, or in the picture."""
        before = np.broadcast_to(np.arange(self.index[0][0].size).reshape(self.index[0].shape[1:]), self.index[0].shape)
        out = []
        for i, index in enumerate(self.index):
            if not np.array_equal(index, before):
                out.append(i)
            before = index
        return out


@contextmanager
def trace_tokens(host: nn.Module) -> Iterator[TokenTrace]:
    """Follows the tokens of a backbone while it runs inside; of several runs, the last.

    Args:
        host (nn.Module): A :class:`~mmtoken.core.TokenHost`.

    Yields:
        TokenTrace: Filled by then.
    """
    trace, trail = TokenTrace(), None

    def see(state: TokenState, i: int) -> None:
        nonlocal trail
        if i == len(host.blocks):
            return
        if i == 0:
            trail = None
            trace.index.clear()
            trace.counts.clear()
        restores = [reduction.restore for reduction in state.trail]
        if restores == trail:
            trace.index.append(trace.index[-1])
        else:
            with torch.no_grad():
                trace.index.append(token_of_patches(state).unflatten(1, state.grid).cpu().numpy())
        trail = restores
        lengths = state.lengths
        if lengths is None:
            lengths = torch.full(state.x.shape[:1], state.x.shape[1])
        trace.counts.append(lengths.cpu().numpy() - state.num_prefix)

    with host.watching(see):
        yield trace


def average_groups(image: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Gives each group of patches its mean colour.

    Args:
        image (np.ndarray): ``(h, w, 3)``, uint8; resized to a whole number of pixels for each patch.
        index (np.ndarray): Group of each patch ``(H, W)``, integers; patches below 0 keep their pixels.

    Returns:
        np.ndarray: ``(H·s, W·s, 3)``, uint8, see :func:`overlay_groups`.
    """
    out, side = fit_to_patches(image, index.shape)
    _, group = np.unique(index, return_inverse=True)
    group = group.reshape(index.shape)
    patches = cv2.resize(out, index.shape[::-1], interpolation=cv2.INTER_AREA)
    size = np.bincount(group.ravel())
    mean = np.stack([np.bincount(group.ravel(), patches[..., c].ravel()) / size for c in range(3)], -1)
    painted = mean.round().astype(np.uint8)[group].repeat(side, 0).repeat(side, 1)
    return np.where((index < 0).repeat(side, 0).repeat(side, 1)[..., None], out, painted)


def fit_to_patches(image: np.ndarray, grid: tuple[int, int]) -> tuple[np.ndarray, int]:
    """A picture resized to a whole number of pixels for each patch, and that number, at least 2."""
    side = max(2, round(image.shape[0] / grid[0]))
    return cv2.resize(image, (grid[1] * side, grid[0] * side), interpolation=cv2.INTER_AREA), side


def colorize_groups(index: np.ndarray) -> np.ndarray:
    """Gives each group of patches a colour: random ones, the same at every call, far from those of its neighbours.

    Args:
        index (np.ndarray): Group of each patch ``(H, W)``, any integers; only who shares one matters.

    Returns:
        np.ndarray: ``(H, W, 3)``, uint8.
    """
    _, group = np.unique(index, return_inverse=True)
    group = group.reshape(index.shape)
    pairs = np.concatenate(
        [
            np.stack([group[1:], group[:-1]], -1).reshape(-1, 2),
            np.stack([group[:, 1:], group[:, :-1]], -1).reshape(-1, 2),
        ]
    )
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
    out, side = fit_to_patches(image, index.shape)
    groups = index.repeat(side, 0).repeat(side, 1)
    if alpha:
        colors = colorize_groups(index).repeat(side, 0).repeat(side, 1)
        out = cv2.addWeighted(out, 1 - alpha, colors, alpha, 0)
    border = np.zeros(groups.shape, bool)
    border[1:] |= groups[1:] != groups[:-1]
    border[:, 1:] |= groups[:, 1:] != groups[:, :-1]
    out[border] = color
    return out
