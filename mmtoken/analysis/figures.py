"""Figures of the analysis tools."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mmtoken.engine.errors import UserError
from mmtoken.engine.files import replacing

from .tasks import Metric
from .tokens import TokenTrace, average_groups, fit_to_patches, overlay_groups

COLUMNS = 4
INK, QUIET, ACCENT = '#222222', '#8a8a8a', '#c2403a'


def check_format(flag: str, path: Path) -> None:
    """Fail if figures cannot be written in the format that a file's name ends with."""
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise UserError(f'{flag} {path}: the name of a figure ends with .{", .".join(sorted(known))}')


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure whole or not at all; raises :class:`UserError` if it cannot."""
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower(), dpi=150)


def paint_labels(picture: np.ndarray, labels: np.ndarray, palette: np.ndarray, alpha: float = 0.65) -> np.ndarray:
    """A picture ``(h, w, 3)`` under its label map ``(h, w)``, uint8; labels without a colour stay clear."""
    inside = (labels >= 0) & (labels < len(palette))
    colors = palette[np.where(inside, labels, 0)]
    mixed = (1 - alpha) * picture + alpha * colors
    return np.where(inside[..., None], mixed, picture).round().astype(np.uint8)


def paint_boxes(
    picture: np.ndarray, sample: Any, classes: Sequence[str], palette: Sequence[Sequence[int]], score: float
) -> np.ndarray:
    """A picture ``(h, w, 3)``, uint8, with the boxes and masks of a ``DetDataSample`` from a score on."""
    from mmdet.visualization import DetLocalVisualizer

    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = dict(classes=tuple(classes), palette=[tuple(map(int, color)) for color in palette])
    visualizer.add_datasample('picture', picture, sample, draw_gt=False, pred_score_thr=score)
    return visualizer.get_image()


def paint_tokens(picture: np.ndarray, index: np.ndarray, left: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Patches that share a token in their mean colour within a border; those that left in the colour of the block.

    Args:
        picture (np.ndarray): ``(h, w, 3)``, uint8.
        index (np.ndarray): Token of each patch ``(H, W)``, see :class:`TokenTrace`.
        left (np.ndarray): First block that skips the token of each patch, or -1, ``(H, W)``.
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


def tokens_figure(
    picture: np.ndarray,
    trace: TokenTrace,
    layers: Sequence[int],
    title: str,
    labels: dict[str, np.ndarray] | None = None,
    classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (),
    painted: dict[str, np.ndarray] | None = None,
) -> Figure:
    """What happened to the tokens of one picture.

    Args:
        picture (np.ndarray): RGB ``(h, w, 3)``, uint8.
        trace (TokenTrace): Of this picture alone.
        layers (Sequence[int]): Blocks to show.
        title (str): Of the whole.
        labels (dict[str, np.ndarray], optional): Label maps ``(h, w)`` of the model, the dense one last, by title.
        classes (Sequence[str]): Names by label.
        palette (Sequence): RGB colours by label, 0 to 255.
        painted (dict[str, np.ndarray], optional): Predictions as pictures ``(h, w, 3)``, uint8, by title.
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

    for column, (name, image) in enumerate((painted or {}).items(), 1):
        show(0, column, image, name)
    blocks = (matplotlib.colormaps['plasma'](np.linspace(0, 0.95, depth))[:, :3] * 255).astype(np.uint8)
    for number, i in enumerate(layers):
        left = trace.left(i)[0]
        count, gone = int(trace.counts[i][0]), (left >= 0).mean()
        text = f'block {i}: {count} tokens' + (f', {gone:.0%} of patches exited' if gone else '')
        show(1 + number // COLUMNS, number % COLUMNS, paint_tokens(picture, trace.index[i][0], left, blocks), text)
    chart(figure.add_subplot(grid[-1, used if beside else 0 :]), trace, layers, blocks)
    return figure


def strip_figure(picture: np.ndarray, trace: TokenTrace, layer: int, output: np.ndarray | None) -> Figure:
    """One row for a page: the picture, its tokens in one block, the prediction.

    Args:
        picture (np.ndarray): RGB ``(h, w, 3)``, uint8.
        trace (TokenTrace): Of this picture alone.
        layer (int): Block to show.
        output (np.ndarray, optional): The prediction as a picture ``(h, w, 3)``, uint8.
    """
    blocks = (matplotlib.colormaps['plasma'](np.linspace(0, 0.95, len(trace.index)))[:, :3] * 255).astype(np.uint8)
    left, count, patches = trace.left(layer)[0], int(trace.counts[layer][0]), trace.index[0][0].size
    panels = {'input': picture}
    panels[f'block {layer}: {count} of {patches} tokens'] = paint_tokens(picture, trace.index[layer][0], left, blocks)
    if output is not None:
        panels['output'] = output
    width = 3.0
    size = width * len(panels), width * picture.shape[0] / picture.shape[1] + 0.3
    figure = Figure(figsize=size, layout='constrained')
    for axes, (text, panel) in zip(figure.subplots(1, len(panels)), panels.items()):
        axes.imshow(panel)
        axes.set_title(text, fontsize=9, color=INK)
        axes.set_axis_off()
    return figure


def chart(axes: Any, trace: TokenTrace, layers: Sequence[int], blocks: np.ndarray) -> None:
    """Bars of the tokens that enter each block; where tokens left, in the colour of that block."""
    depth, patches = len(trace.index), trace.index[0][0].size
    counts = [int(count[0]) for count in trace.counts]
    leaves = [bool((trace.left(i) == i).any()) for i in range(depth)]
    bars = axes.bar(range(depth), counts, color=[blocks[i] / 255 if leaves[i] else '#5b7fa6' for i in range(depth)])
    axes.axhline(patches, color=QUIET, linewidth=1, linestyle='--')
    axes.bar_label(
        bars,
        [f'{count}\n{count / patches:.0%}' for count in counts],
        fontsize=8,
        padding=3,
        color=INK,
        bbox=dict(facecolor='white', edgecolor='none', pad=0.5),
    )
    axes.set_xticks(range(depth), [str(i) for i in range(depth)])
    axes.set(xlim=(-0.6, depth - 0.4), ylim=(0, patches * 1.35), xlabel='block')
    title = 'patch tokens that enter the MLP of each block; dashed: dense'
    if any(leaves):
        title += '\ncoloured bars: where tokens left; their patches have that colour in the pictures'
    axes.set_title(title, fontsize=10, color=INK)
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(labelsize=9)
    for i in layers:
        axes.get_xticklabels()[i].set_fontweight('bold')


#: Marker and colour of the points that a trade-off is compared with.
RIVALS = {
    'dense': ('*', INK),
    'smaller input': ('s', '#d08a2e'),
    'smaller backbone': ('^', '#7a5aa8'),
}
SERIES = ['#2f6db3', '#c2403a', '#3a9a5f', '#1f9aa8', '#a8477f', '#6b6b2a']


def series_of(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """The rows of sweeps by line: all settings but the last are those of the line, and give its name."""
    lines: dict[str, list[dict]] = {}
    for row in rows:
        if row['kind'] == 'reduced':
            *fixed, last = row['values']
            short = [f'{key.removeprefix("reducer.")}={row["values"][key]}' for key in fixed]
            lines.setdefault(', '.join([*short, last.removeprefix('reducer.')]), []).append(row)
    return lines


def tradeoff_figure(rows: Sequence[dict], metric: Metric, title: str, best: str | None = None) -> Figure:
    """Accuracy against measured speed-up, and against MACs.

    Args:
        rows (Sequence[dict]): See :meth:`mmtoken.analysis.tradeoff.Tradeoff.row`.
        metric (Metric): What to plot; better is always up.
        title (str): Of the whole.
        best (str, optional): Name of the row to circle.
    """
    figure = Figure(figsize=(13, 5.6), layout='constrained')
    figure.suptitle(title, fontsize=12, color=INK)
    left, right = figure.subplots(1, 2, sharey=True)
    points(left, rows, metric.name, lambda row: row['speedup']['ratio'], best, spread=True)
    points(right, rows, metric.name, lambda row: row['macs'] / 1e9, best)
    left.set_xlabel('measured speed-up over the dense model (median, 95 % interval)', color=INK)
    right.set_xlabel('GMACs', color=INK)
    left.set_ylabel(f'{metric.name} ({metric.direction})', color=INK)
    if metric.lower:
        left.invert_yaxis()  # the other one shares it
    left.legend(fontsize=9, frameon=False)
    return figure


def points(
    axes: Any,
    rows: Sequence[dict],
    metric: str,
    cost: Callable[[dict], float],
    best: str | None,
    spread: bool = False,
) -> None:
    """Draws a metric against a cost: lines for sweeps, marks for the rest; ``spread`` adds that of the speed-up."""

    def value(row: dict) -> float:
        return row['metrics'][metric]

    def plot(group: list[dict], label: str, **style) -> None:
        group = sorted(group, key=cost)
        error = None
        if spread:
            error = [[abs(row['speedup'][end] - cost(row)) for row in group] for end in ('low', 'high')]
        axes.errorbar(
            [cost(row) for row in group],
            [value(row) for row in group],
            xerr=error,
            label=label,
            elinewidth=1,
            capsize=2,
            **style,
        )

    def name(row: dict, text: str, color: str, offset: tuple[int, int]) -> None:
        axes.annotate(text, (cost(row), value(row)), offset, textcoords='offset points', fontsize=8, color=color)

    for number, (label, group) in enumerate(series_of(rows).items()):
        plot(group, label, marker='o', markersize=5, linewidth=1.5, color=SERIES[number % len(SERIES)])
        for row in group:
            name(row, str(list(row['values'].values())[-1]), QUIET, (4, 5))
    trials = [row for row in rows if row['kind'] == 'searched']
    if trials:
        plot(trials, 'trials of the search', marker='o', markersize=4, linewidth=0, color=SERIES[0], alpha=0.6)
    for kind, (marker, color) in RIVALS.items():
        group = [row for row in rows if row['kind'] == kind]
        if group:
            plot(
                group,
                kind,
                marker=marker,
                markersize=13 if kind == 'dense' else 7,
                color=color,
                linewidth=1 if kind == 'smaller input' else 0,
                linestyle='--',
            )
        for row in group if kind != 'dense' else ():
            name(row, row['name'], color, (5, -11))
    for row in rows:
        if row['name'] == best:
            axes.plot(
                cost(row), value(row), 'o', markersize=15, markerfacecolor='none', markeredgecolor=INK, label='found'
            )
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(color='#eeeeee')
    axes.set_axisbelow(True)
    axes.margins(x=0.1)
