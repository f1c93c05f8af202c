"""Tables of the pages: accuracy, multiply-adds and measured times of several models, and how smaller pictures do."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmtoken.engine.errors import UserError
from mmtoken.engine.files import read_rows

from .rivals import verdict
from .tasks import Metric

#: The last column: how far above the dense model on smaller pictures that takes the same time.
RIVAL = 'over smaller input'

Latencies = Mapping[tuple[str, int], dict]


def name_of(row: dict) -> str:
    """Returns the name of a row of ``results.py``, ``benchmark.py`` or ``tradeoff.py``."""
    return row.get('config') or row['name']


def is_smaller(row: dict) -> bool:
    """Returns whether a row is of the dense model on smaller pictures."""
    return 'input' in name_of(row).replace(',', ' ').split()


def read_latencies(paths: Sequence[Path], names: Sequence[str]) -> dict[tuple[str, int], dict]:
    """Returns rows of ``benchmark.py --json`` by name and batch size; those of later files go first."""
    latencies: dict[tuple[str, int], dict] = {}
    for path in paths:
        rows = read_rows(path, 'name', 'batch')
        if not any(row['name'] in names for row in rows):
            raise UserError(f'--benchmark {path}: it has no row of any of these configs; give a file of benchmark.py')
        for row in rows:
            key = row['name'], row['batch']
            if latencies.get(key, row).get('shape') != row.get('shape'):
                raise UserError(
                    f'--benchmark {path}: {row["name"]} was timed at several sizes, of which a table shows '
                    'one; give files of one size, without --breakeven'
                )
            latencies[key] = row
    return latencies


def judge_rows(rows: Sequence[dict], latencies: Latencies, metric: Metric, rivals: Sequence[dict] = ()) -> None:
    """Gives timed rows the ``verdict`` on them beside the baseline on smaller pictures, if these were timed too.

    Args:
        rows (Sequence[dict]): With ``metrics``; a ``speedup`` of their own where ``latencies`` have none.
        latencies (Mapping): See :func:`read_latencies`; the smallest batch decides.
        metric (Metric): What to compare.
        rivals (Sequence[dict]): The baseline, the first, and its smaller pictures; by default those of ``rows``.
    """
    batch = min((batch for _, batch in latencies), default=1)
    rivals = rivals or rows
    dense = name_of(rivals[0])
    rivals = [
        row for row in rivals if name_of(row) == dense or ' input' in name_of(row) or name_of(row)[:6] == 'input '
    ]
    timed = {name_of(row): row | latencies.get((name_of(row), batch), {}) for row in [*rivals, *rows]}
    curve = [timed[name_of(row)] for row in rivals if 'speedup' in timed[name_of(row)]]
    known = {name_of(row) for row in rivals} | {name_of(rows[0])}
    for row in rows:
        if name_of(row) not in known and 'speedup' in timed[name_of(row)] and len(curve) > 1:
            row['verdict'] = verdict(timed[name_of(row)], curve, metric)


def margin_of(found: dict, digits: int) -> str:
    """Returns the cell of a :func:`verdict`: the margin and its interval."""
    if found['margin'] is None:
        return found['verdict']
    ends = None in (found['low'], found['high'])
    interval = '' if ends else f' ({found["low"]:+.{digits}f} to {found["high"]:+.{digits}f})'
    return f'{found["margin"]:+.{digits}f}{interval}'


def short_names(rows: Sequence[dict]) -> list[str]:
    """Returns the names of rows: ``dense`` for the first, and none of what all methods' names end with."""
    dense = name_of(rows[0])
    names = ['dense' + name_of(row)[len(dense) :] if name_of(row).startswith(dense) else '' for row in rows]
    brief = [name_of(row).partition('_')[0] for row in rows]
    return [
        name or (short if brief.count(short) == 1 else name_of(row)) for name, short, row in zip(names, brief, rows)
    ]


def table(rows: Sequence[dict], latencies: Latencies, metric: Metric) -> str:
    """Returns a table in Markdown, a row a model, the baseline first."""
    batches = sorted({batch for _, batch in latencies}) or [1]
    base = rows[0]['metrics'][metric.name]
    judged, digits = any(row.get('verdict') for row in rows), metric.digits(base)
    head = ['config', metric.name, 'Δ', 'GMACs', 'MACs ×']
    head += [cell for batch in batches for cell in (f'ms, {batch}', f'speed-up, {batch}', '÷')] + [RIVAL] * judged
    lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    for row, name in zip(rows, short_names(rows)):
        row = row | latencies.get((name_of(row), batches[0]), {})
        value = row['metrics'][metric.name]
        cells = [name, f'{value:.{digits}f}', f'{value - base:+.{digits}f}']
        cells += [f'{row["macs"] / 1e9:.1f}', f'{row["mac_ratio"]:.2f}'] if 'macs' in row else ['', '']
        for batch in batches:
            cost = latencies.get((name_of(row), batch), row if 'speedup' in row and len(batches) == 1 else None)
            cells += (
                [
                    f'{cost["ms_per_image"]["median"]:.0f}',
                    f'{cost["speedup"]["ratio"]:.2f}',
                    f'{cost["efficiency"]:.2f}',
                ]
                if cost
                else [''] * 3
            )
        if judged:
            cells.append(margin_of(row['verdict'], digits) if row.get('verdict') else '')
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)
