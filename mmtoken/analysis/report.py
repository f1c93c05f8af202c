"""What the analysis tools print and keep: costs of a model over several pictures, as tables and as JSON."""

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .counter import Seen
from .flops import PARTS, model_parts, over_pictures, part_table, segmentor_macs, sum_uncounted
from .tasks import task_of


def costs(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """Counts a model on each of some pictures.

    Args:
        model (nn.Module): See :func:`~mmtoken.analysis.flops.segmentor_macs`.
        inputs (Sequence[Tensor]): Normalised images ``(1, 3, H, W)``.

    Returns:
        dict: ``macs``, ``crops`` and ``sizes`` by picture; ``split`` and ``parts``, MACs of each part and module
        by picture; ``by_operator``, their mean; ``tokens``, by block, ``mean``, ``min`` and ``max`` over the pictures;
        ``uncounted`` and ``missed``, (calls, elements) over all pictures; ``once``, MACs of the first call alone.
    """
    reports = over_pictures(model, inputs, lambda n: segmentor_macs(model, inputs[n], whole=True))
    tables = [dict(part_table(report, model)) for report in reports]
    splits = [model_parts(report, model) for report in reports]
    blocks = list(zip(*(report.tokens for report in reports)))
    return dict(
        macs=[report.total for report in reports],
        once=reports[0].once,
        crops=[task_of(model).crops(model, image.shape[2:]) for image in inputs],
        sizes=[list(image.shape[2:]) for image in inputs],
        split={part: [split[part] for split in splits] for part in PARTS},
        parts={name: [table.get(name, 0) for table in tables] for table in tables for name in table},
        by_operator={
            kind: statistics.mean(report.by_operator.get(kind, 0) for report in reports)
            for report in reports
            for kind in report.by_operator
        },
        tokens={
            name: [of(block) for block in blocks] for name, of in dict(mean=statistics.mean, min=min, max=max).items()
        },
        uncounted=sum_uncounted(reports),
        missed=sorted({name for report in reports for name in report.missed}),
    )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, its columns as wide as they need to be."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = [' | '.join(cell.ljust(width) for cell, width in zip(line, widths)) for line in [head, *rows]]
    return '\n'.join(
        [
            f'| {lines[0]} |',
            '|' + '|'.join('-' * (width + 2) for width in widths) + '|',
            *(f'| {line} |' for line in lines[1:]),
        ]
    )


def amount(macs: Sequence[int]) -> str:
    """``12.345 ± 0.678 (11.0-13.2)`` GMACs: mean, deviation and range; the mean alone where they are all the same."""
    giga = [value / 1e9 for value in macs]
    text = f'{statistics.mean(giga):.3f}'
    if min(macs) == max(macs):
        return text
    return f'{text} ± {statistics.stdev(giga):.3f} ({min(giga):.3f}-{max(giga):.3f})'


def cost_table(cost: dict, baseline: dict | None = None, modules: bool = False) -> str:
    """GMACs of each part that has any, of a model and of its dense twin.

    Args:
        cost (dict): Of :func:`costs`.
        baseline (dict, optional): The same of the twin, on the same pictures.
        modules (bool): Every block by itself instead of the parts. Defaults to False.
    """
    key = 'parts' if modules else 'split'
    names = [name for name in cost[key] if any(cost[key][name]) or (baseline and any(baseline[key].get(name, [0])))]
    if baseline:
        names += [name for name in baseline[key] if name not in cost[key]]
    mean, rows = statistics.mean, []
    for name in [*names, 'total']:
        macs = cost['macs'] if name == 'total' else cost[key].get(name, [0])
        row = [name, amount(macs), f'{mean(macs) / mean(cost["macs"]):.1%}']
        if baseline:
            twin = baseline['macs'] if name == 'total' else baseline[key].get(name, [0])
            row += [amount(twin), f'{mean(macs) / mean(twin):.3f}' if any(twin) else '']
        rows.append(row)
    return markdown(['part', 'GMACs', 'share'] + ['baseline', 'ratio'] * (baseline is not None), rows)


def token_line(tokens: dict) -> str:
    """Tokens by block, equal neighbours as one: ``24 x2, 6.5 (4-9) x2``."""
    cells = [
        f'{round(mean, 1):g}' + (f' ({low:g}-{high:g})' if low != high else '')
        for mean, low, high in zip(tokens['mean'], tokens['min'], tokens['max'])
    ]
    return run_lengths(cells)


def run_lengths(cells: Sequence[str]) -> str:
    """``['8', '8', '4']`` -> ``8 x2, 4``."""
    runs = [(cell, len(list(run))) for cell, run in itertools.groupby(cells)]
    return ', '.join(f'{cell} x{times}' if times > 1 else cell for cell, times in runs)


def operator_line(operators: dict[str, Seen]) -> str:
    """``add (12 calls, 3.4 M elements), …``, the largest first; also of what was read from JSON."""
    ranked = sorted(((name, *seen) for name, seen in operators.items()), key=lambda item: -item[2])
    return ', '.join(f'{name} ({calls} calls, {_short(elements)} elements)' for name, calls, elements in ranked)


def _short(count: int) -> str:
    for unit, size in (('G', 10**9), ('M', 10**6), ('k', 10**3)):
        if count >= size:
            return f'{count / size:.3g} {unit}'
    return str(count)


def latency_table(rows: Sequence[dict], sweep: bool = False) -> str:
    """Rows of :meth:`~mmtoken.analysis.benchmark.Bench.measure`; with ``sweep``, their ``shape`` and ``tokens`` too."""
    head = [
        'model',
        'batch',
        'ms/image (p5-p95)',
        'images/s',
        'speed-up (95 %)',
        'GMACs',
        'MAC speed-up',
        'speed-up ÷ MAC speed-up',
        'peak MiB',
    ]
    lines = []
    for row in rows:
        ms, speedup = row['ms_per_image'], row['speedup']
        cells = [f'{row["shape"][0]}x{row["shape"][1]}', str(row['tokens'])] if sweep else []
        cells += [
            row['name'],
            str(row['batch']),
            f'{ms["median"]:.1f} ({ms["p5"]:.1f}-{ms["p95"]:.1f})',
            f'{row["images_per_second"]:.2f}',
            f'{speedup["ratio"]:.2f} ({speedup["low"]:.2f}-{speedup["high"]:.2f})',
            f'{row["macs"] / 1e9:.2f}',
            f'{1 / row["mac_ratio"]:.2f}',
            f'{row["efficiency"]:.2f}',
            f'{row["peak_memory"] / 2**20:.0f}',
        ]
        lines.append(cells)
    return markdown(['size', 'tokens'] * sweep + head, lines)
