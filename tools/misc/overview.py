"""One table over all tasks, from the JSON files in ``configs/*/results``.

    python tools/misc/overview.py [--page configs/expedit/README.md]

prints it, or writes it into a page between the lines ``<!-- overview -->`` and ``<!-- /overview -->``. Each cell holds
the change of the task's metric, the share of the dense model's multiply-adds, and the measured speed-up at batch 1.
What was never measured is ``–``. A new task, or a new setting of one, is an entry of :data:`TASKS`.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mmtoken  # noqa: F401
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import read_rows, write_text

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
BEGIN, END = '<!-- overview -->\n', '<!-- /overview -->\n'
METHODS = ('smaller picture', 'Expedit', 'ToMe', 'AvgPool')


@dataclass
class Task:
    """A task of the table.

    Args:
        name: What the model does, and on which data.
        metric: Name in the files.
        files: JSON files under ``configs``, without ``results/`` and the suffix; for the same row, later ones go first.
        settings: For each of :data:`METHODS`, names of rows, or their beginnings, from gentle to strong.
        digits: Decimals of the metric.
        unit: What it is multiplied by.
    """

    name: str
    metric: str
    files: Sequence[str]
    settings: Sequence[Sequence[str]]
    digits: int = 2
    unit: float = 1.0


def swept(stem: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Files and settings of a task that tradeoff.py measured, each method in a file of its own."""
    inputs = tuple(f'input ×{factor}' for factor in (0.8, 0.65, 0.5))
    grids = ('grid=0.8', 'grid=0.67', 'grid=0.5')
    files = tuple(f'baselines/{stem}_{method}' for method in ('tome', 'expedit', 'avgpool'))
    return files, [inputs, grids, ('keep=0.7', 'keep=0.5', 'keep=0.35'), grids]


def smaller(stem: str, *factors: float) -> tuple[str, ...]:
    """Names that results.py and benchmark.py give the baseline on smaller pictures."""
    return tuple(f'{stem}, ×{factor} input' for factor in factors)


CAMVID, SEGMENTER = 'baselines/dinov2-s14_linear_camvid', 'baselines/dinov2-s14_segmenter_camvid'
DRIVE, FOCUS = 'dinov2-s14_subpatch_drive', 'dinov2-s14_focus_minicoco'
TASKS = [
    Task(
        'semantic segmentation, CamVid, linear head',
        'mIoU',
        [CAMVID, f'{CAMVID}_latency', f'{CAMVID}_smaller', f'{CAMVID}_latency_rivals'],
        [
            smaller('dinov2-s14_linear_2k_camvid-672x504', 0.8, 0.65, 0.5),
            ('expedit-prop-l6-g67', 'expedit-prop-l6-g60', 'expedit-prop-l6-g50'),
            ('tome-r80', 'tome-r110', 'tome-r165x8'),
            ('avgpool-l8-g50', 'avgpool-l6-g67', 'avgpool-prop-l6-g50'),
        ],
    ),
    Task(
        'semantic segmentation, CamVid, Segmenter',
        'mIoU',
        [SEGMENTER, f'{SEGMENTER}_latency'],
        [
            smaller('dinov2-s14_segmenter_1k_camvid-672x504', 0.8, 0.65, 0.5),
            ('expedit-prop-l6-g67', 'expedit-prop-l6-g50', 'expedit-late-l6-g50'),
            ('tome-r80', 'tome-r110', 'tome-r150x8'),
            ('avgpool-l6-g67', 'avgpool-l6-g50', 'avgpool-l4-g50'),
        ],
    ),
    Task("semantic segmentation, COCO's super-categories", 'mIoU', *swept('dinov2-s14_linear_minicoco')),
    Task('vessels, DRIVE', 'Dice.vessel', *swept(DRIVE)),
    Task('depth, one room (metres)', 'rmse', *swept('dinov2-s14_dpt_rgbd'), digits=3),
    Task('detection, blood cells', 'coco/bbox_mAP', *swept('dinov2-s14_retinanet_bccd'), digits=1, unit=100),
    Task(
        "instances, COCO's super-categories",
        'coco/segm_mAP',
        *swept('dinov2-s14_mask-rcnn_minicoco'),
        digits=1,
        unit=100,
    ),
    Task(
        'saliency, likeness to the dense model',
        'IoU',
        [f'baselines/{FOCUS}', f'baselines/{FOCUS}_latency'],
        [
            smaller(f'{FOCUS}-448x448', 0.875, 0.8125, 0.75),
            ('expedit-prop-l6-g80', 'expedit-prop-l6-g67', 'expedit-l6-g50'),
            ('tome-r60x8', 'tome-r90x8', 'tome-r110'),
            ('avgpool-l6-g80', 'avgpool-l6-g67', 'avgpool-l6-g50'),
        ],
        digits=1,
        unit=100,
    ),
]


def rows_of(task: Task, method: int) -> list[dict]:
    """All rows of a task's files, but those of sweeps of other methods, whose settings have the same names."""
    name = METHODS[method].lower()
    others = [other.lower() for other in METHODS[1:] if other.lower() != name]
    files = [file for file in task.files if method == 0 or not file.endswith(tuple(f'_{other}' for other in others))]
    rows = []
    for file in files:
        folder, stem = file.split('/')
        rows += read_rows(CONFIGS / folder / 'results' / f'{stem}.json')
    return rows


def find(rows: Sequence[dict], name: str) -> dict:
    """What rows of a name say together, at batch 1; the name may lack its end, from ``_`` on."""
    found: dict = {}
    for row in rows:
        label = row.get('config') or row['name']
        if (label == name or label.startswith(f'{name}_')) and row.get('batch', 1) == 1:
            found |= {key: value for key, value in row.items() if value is not None}
    if 'metrics' not in found:
        raise UserError(f'{name}: no file of this task has scored it')
    return found


def cell(row: dict, task: Task, dense: float) -> str:
    """Change of the metric, share of the multiply-adds and speed-up of a row."""
    change = f'{row["metrics"][task.metric] * task.unit - dense:+.{task.digits}f}'
    macs = f'×{row["mac_ratio"]:.2f}' if 'mac_ratio' in row else '–'
    return f'{change} · {macs} · {row["speedup"]["ratio"]:.2f}' if 'speedup' in row else f'{change} · {macs} · –'


def table() -> str:
    """Returns the table as Markdown."""
    lines = ['| task, metric | dense | ' + ' | '.join(METHODS) + ' |', '|' + '---|' * (len(METHODS) + 2)]
    for task in TASKS:
        name = f'{task.name}: {task.metric.removeprefix("coco/")}'
        dense = rows_of(task, 0)[0]['metrics'][task.metric] * task.unit
        columns = []
        for method, names in enumerate(task.settings):
            rows = rows_of(task, method)
            columns.append([cell(find(rows, name), task, dense) for name in names])
        for step in range(max(map(len, columns))):
            cells = [column[step] if step < len(column) else '–' for column in columns]
            head = [name, f'{dense:.{task.digits}f}'] if step == 0 else ['', '']
            lines.append('| ' + ' | '.join(head + cells) + ' |')
    return '\n'.join(lines) + '\n'


@one_line_errors()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--page', type=Path, help='page to write the table into')
    args = parser.parse_args()
    if args.page is None:
        print(table(), end='')
        return
    text = args.page.read_text(encoding='utf-8') if args.page.is_file() else ''
    if BEGIN not in text or END not in text:
        raise UserError(f'--page {args.page}: it has no lines {BEGIN.strip()} and {END.strip()}; add them')
    write_text(args.page, re.sub(f'{BEGIN}.*?{END}', lambda _: f'{BEGIN}{table()}{END}', text, flags=re.DOTALL))


if __name__ == '__main__':
    main()
