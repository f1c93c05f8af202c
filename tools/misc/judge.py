"""Sets results beside the dense model on smaller pictures that were scored or timed in another run.

    python tools/misc/judge.py RESULTS.json --rivals RIVALS.json
                               [--benchmark BENCH.json ...] [--metric mIoU] [--rows WORD ...]

``RESULTS.json`` and ``RIVALS.json`` are files of ``results.py`` or ``tradeoff.py``; in the latter the first row is the
dense model, and it counts with all rows of smaller input. Times are those of the rows themselves, or of
``benchmark.py --json``. Speed-ups of either are over the same dense model, timed in turns. The verdict is written into
the rows of ``RESULTS.json``, and the table printed (``--rows``: only rows whose names have one of these words).
"""

import argparse
from pathlib import Path

import mmtoken  # noqa: F401  before anything of OpenMMLab
from mmtoken.analysis.tables import is_smaller, judge_rows, name_of, read_latencies, table
from mmtoken.analysis.tasks import Metric
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import read_json, read_rows, write_json


@one_line_errors()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('results', type=Path, help='JSON file whose rows are judged')
    parser.add_argument('--rivals', required=True, type=Path, help='JSON file with the dense model on smaller pictures')
    parser.add_argument('--benchmark', type=Path, nargs='+', default=[], help='JSON files of benchmark.py')
    parser.add_argument('--metric', default='mIoU', help='what to compare (mIoU)')
    parser.add_argument('--rows', nargs='+', metavar='WORD', help='print only rows with one of these in their names')
    args = parser.parse_args()
    rows, rivals = (read_rows(path, 'metrics') for path in (args.results, args.rivals))
    for path, some in ((args.results, rows), (args.rivals, rivals)):
        if not some or any(args.metric not in row['metrics'] for row in some):
            raise UserError(f'--metric {args.metric}: rows of {path} lack it')
    if not any(map(is_smaller, rivals)):
        raise UserError(f'--rivals {args.rivals}: it has no row of smaller input')
    latencies = read_latencies(args.benchmark, [name_of(row) for row in rows])
    metric = Metric.named(args.metric)
    judge_rows(rows, latencies, metric, rivals)
    write_json(args.results, read_json(args.results, {}) | dict(rows=rows))
    known = {name_of(row) for row in rows}
    shown = [*rows, *(row for row in rivals if is_smaller(row) and name_of(row) not in known)]
    if args.rows:
        shown = [row for row in shown if row is rows[0] or any(word in name_of(row) for word in args.rows)]
    print(table(shown, latencies, metric))


if __name__ == '__main__':
    main()
