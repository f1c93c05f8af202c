"""The first rival of every method: the dense model on smaller pictures."""

from collections.abc import Sequence
from math import isnan

from .tasks import Metric

#: Parts of a picture's sides.
FACTORS = (0.8, 0.65, 0.5)


def smaller_size(size: Sequence[int], factor: float, patch: int) -> tuple[int, ...]:
    """Returns a size in whole patches, at least one each way."""
    return tuple(max(1, round(side * factor / patch)) * patch for side in size)


def best_at(time: float, points: Sequence[tuple[float, float]], metric: Metric) -> float | None:
    """Returns the metric that the curve through some points reaches in a time.

    A point that a faster one beats has no part in the curve: nobody would take it. Nor has one whose metric is nan, as
    that of people who were not found.

    Args:
        time (float): In the unit of the points.
        points (Sequence[tuple[float, float]]): Time and metric of each rival.
        metric (Metric): Says what is better.

    Returns:
        float | None: On straight lines between the points, the slowest point's beyond it; None before the fastest.
    """
    curve: list[tuple[float, float]] = []
    for at, value in sorted(points):
        if not isnan(value) and (not curve or metric.loss(value, curve[-1][1]) < 0):
            curve.append((at, value))
    if not curve or time < curve[0][0]:
        return None
    for (t0, v0), (t1, v1) in zip(curve, curve[1:]):
        if time < t1:
            return v0 + (v1 - v0) * (time - t0) / (t1 - t0)
    return curve[-1][1]


def verdict(row: dict, rivals: Sequence[dict], metric: Metric) -> dict:
    """Returns whether a setting is above or below the curve of the dense model on smaller pictures.

    Both are compared at the same measured time. Times are those of the dense model over the paired speed-ups, whose
    95 % intervals give that of the margin: at one end the setting is slow and its rivals are fast, at the other the
    reverse. How well the metric itself is known is not in it.

    Args:
        row (dict): Of :meth:`mmtoken.analysis.tradeoff.Tradeoff.row`.
        rivals (Sequence[dict]): Rows of the dense model, the first, and of its smaller pictures.
        metric (Metric): What to compare.

    Returns:
        dict: ``verdict``, ``above``, ``below``, ``level`` where the interval holds 0, ``faster`` than any of them, or
        ``undefined`` where the setting's metric is nan or there is none to compare it with, or ``silent`` where the
        metric is the same for all, as 0 is for models that find nothing;
        ``rival``, the curve's metric at that time; ``margin``, how much better the setting is, with ``low`` and
        ``high``. A number is None where the curve has no such point.
    """

    def gain(end: str, rival_end: str) -> tuple[float | None, float | None]:
        points = [(1 / rival['speedup'][rival_end], rival['metrics'][metric.name]) for rival in rivals]
        rival = best_at(1 / row['speedup'][end], points, metric)
        return rival, None if rival is None else metric.loss(rival, row['metrics'][metric.name])

    (rival, margin), (_, low), (_, high) = gain('ratio', 'ratio'), gain('low', 'high'), gain('high', 'low')
    own, others = row['metrics'][metric.name], [rival['metrics'][metric.name] for rival in rivals]
    if isnan(own) or all(map(isnan, others)):
        word, rival, margin, low, high = 'undefined', None, None, None, None
    elif {own} == set(others):
        word, rival, margin, low, high = 'silent', None, None, None, None
    elif margin is None:
        word = 'faster'
    elif low is not None and low > 0:
        word = 'above'
    elif high is not None and high < 0:
        word = 'below'
    else:
        word = 'level'
    return dict(verdict=word, rival=rival, margin=margin, low=low, high=high)


def say(found: dict, metric: Metric) -> str:
    """Returns a :func:`verdict` in words."""
    if found['verdict'] == 'faster':
        return 'faster than any smaller input that was measured'
    if found['verdict'] == 'undefined':
        return f'{metric.name} is undefined, so nothing is said of the smaller input'
    if found['verdict'] == 'silent':
        return f'{metric.name} is the same here, for the dense model and on every smaller input, so it says nothing'
    place = {'level': 'level with'}.get(found['verdict'], found['verdict'])
    digits, known = metric.digits(found['rival']), None not in (found['low'], found['high'])
    ends = f' ({found["low"]:+.{digits}f} to {found["high"]:+.{digits}f})' if known else ''
    return f'{place} the smaller input by {found["margin"]:+.{digits}f}{ends} {metric.name} at the same time'


def judge_rows(rows: Sequence[dict], metric: Metric) -> None:
    """Gives each row beside the dense ones its :func:`verdict`; None where there is no smaller input."""
    rivals = [row for row in rows if row['kind'] in ('dense', 'smaller input')]
    for row in rows:
        row['verdict'] = None if row in rivals or len(rivals) < 2 else verdict(row, rivals, metric)
