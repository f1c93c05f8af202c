"""Figures of the analysis tools."""

from typing import Any, Optional, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .tokens import TokenTrace, average_groups, fit_to_patches, overlay_groups

COLUMNS = 4
INK, QUIET, ACCENT = '#222222', '#8a8a8a', '#c2403a'


def paint_labels(picture: np.ndarray, labels: np.ndarray, palette: np.ndarray, alpha: float = 0.65) -> np.ndarray:
    """A picture ``(h, w, 3)`` under its label map ``(h, w)``, uint8; labels without a colour stay clear."""
    inside = (labels >= 0) & (labels < len(palette))
    colors = palette[np.where(inside, labels, 0)]
    mixed = (1 - alpha) * picture + alpha * colors
    return np.where(inside[..., None], mixed, picture).round().astype(np.uint8)


def paint_tokens(picture: np.ndarray, index: np.ndarray, left: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Patches that share a token in their mean colour within a border; those that left in the colour of the block.

    Args:
        picture (np.ndarray): ``(h, w, 3)``, uint8.
        index (np.ndarray): Token of each patch ``(H, W)``, see :class:`TokenTrace`.
        left (np.ndarray): Block that each patch no longer enters, or -1, ``(H, W)``.
        colors (np.ndarray): A colour for each block ``(depth, 3)``, uint8.

    Returns:
        np.ndarray: ``(H·s, W·s, 3)``, uint8. Patches with a token of their own are as in the picture.
    """
    _, group, size = np.unique(index, return_inverse=True, return_counts=True)
    shared = np.where(size[group.reshape(index.shape)] > 1, index, -1)
    shared[left >= 0] = -1
    painted = average_groups(picture, shared)
    pixels, side = fit_to_patches(picture, index.shape)
    gone = (left >= 0).repeat(side, 0).repeat(side, 1)[..., None]
    shade = colors[np.maximum(left, 0)].repeat(side, 0).repeat(side, 1)
    grey = pixels.mean(-1, keepdims=True)
    painted = np.where(gone, (0.4 * grey + 0.6 * shade).round(), painted).astype(np.uint8)
    return overlay_groups(painted, np.where(left >= 0, -2 - left, shared))


def tokens_figure(picture: np.ndarray,
                  trace: TokenTrace,
                  layers: Sequence[int],
                  title: str,
                  labels: Optional[dict[str, np.ndarray]] = None,
                  classes: Sequence[str] = (),
                  palette: Sequence[Sequence[int]] = ()) -> Figure:
    """What happened to the tokens of one picture.

    Args:
        picture (np.ndarray): RGB ``(h, w, 3)``, uint8.
        trace (TokenTrace): Of this picture alone.
        layers (Sequence[int]): Blocks to show.
        title (str): Of the whole.
        labels (dict[str, np.ndarray], optional): Label maps ``(h, w)`` of the model, the dense one last, by title.
        classes (Sequence[str]): Names by label.
        palette (Sequence): RGB colours by label, 0 to 255.
    """
    depth, patches = len(trace.index), trace.index[0][0].size
    width, height = 4.0, 4.0 * picture.shape[0] / picture.shape[1]
    used = len(layers) % COLUMNS
    beside = 0 < used <= COLUMNS // 2  # then the chart has its place in the last row
    heights = [height] * (1 + -(-len(layers) // COLUMNS)) + ([] if beside else [2.2])
    legend = 0.45 if labels else 0
    figure = Figure(figsize=(COLUMNS * width, sum(heights) + 0.34 * len(heights) + legend + 0.5), layout='constrained')
    figure.suptitle(title, fontsize=13, color=INK)
    grid = figure.add_gridspec(len(heights), COLUMNS, height_ratios=heights)

    def show(row: int, column: int, image: np.ndarray, text: str) -> None:
        axes = figure.add_subplot(grid[row, column])
        axes.imshow(image)
        axes.set_title(text, fontsize=10, color=INK)
        axes.set_axis_off()

    show(0, 0, picture, f'picture, {picture.shape[1]}×{picture.shape[0]}, {patches} patches')
    if labels:
        colors = np.array(palette, np.uint8)
        for column, (name, map_) in enumerate(labels.items(), 1):
            show(0, column, paint_labels(picture, map_, colors), name)
        ours, dense = labels.values()
        differs = ours != dense
        grey = np.repeat(picture.mean(-1, keepdims=True) * 0.5 + 110, 3, -1)
        grey[differs] = matplotlib.colors.to_rgb(ACCENT) * np.array(255)
        show(0, 3, grey.round().clip(0, 255).astype(np.uint8), f'label differs from dense: {differs.mean():.1%}')
        seen = [c for c in np.union1d(ours, dense) if 0 <= c < len(palette)]
        handles = [Patch(color=colors[c] / 255, label=classes[c] if c < len(classes) else str(c)) for c in seen]
        figure.legend(handles=handles, loc='outside lower center', ncols=min(len(seen), 12), fontsize=9, frameon=False)

    blocks = (matplotlib.colormaps['plasma'](np.linspace(0, 0.95, depth))[:, :3] * 255).astype(np.uint8)
    for number, i in enumerate(layers):
        left = trace.left(i)[0]
        count, gone = int(trace.counts[i][0]), (left >= 0).mean()
        text = f'block {i}: {count} tokens' + (f', {gone:.0%} of the patches have left' if gone else '')
        show(1 + number // COLUMNS, number % COLUMNS, paint_tokens(picture, trace.index[i][0], left, blocks), text)
    chart(figure.add_subplot(grid[-1, used if beside else 0:]), trace, layers, blocks)
    return figure


def chart(axes: Any, trace: TokenTrace, layers: Sequence[int], blocks: np.ndarray) -> None:
    """Bars of the tokens that enter each block; where tokens left, in the colour of that block."""
    depth, patches = len(trace.index), trace.index[0][0].size
    counts = [int(count[0]) for count in trace.counts]
    leaves = [bool((trace.left(i) == i).any()) for i in range(depth)]
    bars = axes.bar(range(depth), counts, color=[blocks[i] / 255 if leaves[i] else '#5b7fa6' for i in range(depth)])
    axes.axhline(patches, color=QUIET, linewidth=1, linestyle='--')
    axes.bar_label(bars, [f'{count}\n{count / patches:.0%}' for count in counts], fontsize=8, padding=3, color=INK,
                   bbox=dict(facecolor='white', edgecolor='none', pad=0.5))
    axes.set_xticks(range(depth), [str(i) for i in range(depth)])
    axes.set(xlim=(-0.6, depth - 0.4), ylim=(0, patches * 1.35), xlabel='block')
    title = 'patch tokens that enter the MLP of each block; dashed: dense'
    if any(leaves):
        title += '; coloured: tokens left here, and their patches have this colour above'
    axes.set_title(title, fontsize=10, color=INK)
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(labelsize=9)
    for i in layers:
        axes.get_xticklabels()[i].set_fontweight('bold')
