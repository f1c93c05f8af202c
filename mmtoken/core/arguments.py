"""Checks of arguments that methods and hosts share: one line that names the key, the value and the remedy."""

import math
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

Grid = float | Sequence[int]


def check_flag(key: str, value: Any) -> bool:
    """Returns a switch.

    Raises:
        ValueError: For anything but True and False; Python takes a text such as ``'False'`` for true.
    """
    if not isinstance(value, bool):
        raise ValueError(f'{key}={value!r} is no switch; set it to True or False.')
    return value


def check_int(key: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """Returns an integer between ``low`` and ``high``, both included; None is no limit.

    Raises:
        ValueError: For another type, True and False included, or a number outside the limits.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not _inside(value, low, high):
        raise ValueError(f'{key}={value!r} must be an integer{_limits(low, high)}.')
    return value


def check_number(
    key: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    above: bool = False,
    below: bool = False,
) -> float:
    """Returns a finite number between ``low`` and ``high``, both included.

    Args:
        key (str): Name of the argument.
        value (Any): Its value.
        low (float, optional): Smallest value; None is no limit.
        high (float, optional): Largest value; None is no limit.
        above (bool): Leave ``low`` itself out. Defaults to False.
        below (bool): Leave ``high`` itself out. Defaults to False.

    Raises:
        ValueError: For another type, nan, infinity or a number outside the limits.
    """
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not _inside(value, low, high) or (above and value == low) or (below and value == high):
        raise ValueError(f'{key}={value!r} must be a number{_limits(low, high, above, below)}.')
    return value


def check_range(
    key: str, value: Any, low: float | None = None, high: float | None = None, above: bool = False
) -> tuple[float, float]:
    """Returns two ascending numbers between ``low`` and ``high``; see :func:`check_number`.

    Raises:
        ValueError: For another type, another number of them, or descending ones.
    """
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f'{key}={value!r} must be two numbers, the least and the largest.')
    least, largest = (check_number(key, each, low, high, above) for each in value)
    if least > largest:
        raise ValueError(f'{key}={value!r} must be two numbers, the smaller one first.')
    return least, largest


def check_choice(key: str, value: Any, choices: Sequence[str]) -> str:
    """Returns one of several names.

    Raises:
        ValueError: For another value; names the nearest choice.
    """
    if value not in choices or not isinstance(value, str):
        near = get_close_matches(str(value), choices, 1)
        hint = f'; did you mean {near[0]!r}?' if near else '.'
        raise ValueError(f'{key}={value!r} is unknown; choose one of {", ".join(map(repr, choices))}{hint}')
    return value


def check_list(key: str, value: Any, length: int | None = None) -> list:
    """Returns a list or tuple as a list.

    Raises:
        ValueError: For another type, an empty list, or a list of another length.
    """
    if not isinstance(value, (list, tuple)) or not value or (length is not None and len(value) != length):
        size = 'at least one entry' if length is None else f'{length} entries'
        raise ValueError(f'{key}={value!r} must be a list with {size}.')
    return list(value)


def check_blocks(key: str, value: Any, depth: int | None = None) -> list[int]:
    """Returns a list of different blocks, counted from 0.

    Args:
        key (str): Name of the argument.
        value (Any): Its value.
        depth (int, optional): Number of blocks of the model, if it is known.

    Raises:
        ValueError: For another type, an empty list, a block twice, or a block that the model does not have.
    """
    good = isinstance(value, (list, tuple, range)) and len(value) > 0
    good = good and all(isinstance(i, int) and not isinstance(i, bool) for i in value) and len(set(value)) == len(value)
    if not good or any(i < 0 for i in value):
        raise ValueError(f'{key}={value!r} must be a list of different blocks, counted from 0, such as [3, 6, 9].')
    if depth is not None and max(value) >= depth:
        raise ValueError(f'{key}={list(value)} goes beyond the blocks 0 to {depth - 1}.')
    return list(value)


def check_out_indices(indices: Any, depth: int, unit: str = 'block') -> tuple[int, ...]:
    """Returns the blocks to give features after, or the stages of a pyramid, counted from 0.

    Raises:
        ValueError: For another type, none, one twice, falling order, or one that the model does not have.
    """
    key = 'backbone.out_indices'
    listed: list[Any] = list(indices) if isinstance(indices, (list, tuple, range)) else [indices]
    if not listed or not all(isinstance(i, int) and not isinstance(i, bool) for i in listed):
        raise ValueError(f'{key}={indices!r} must be a {unit}, such as -1, or a list of them, such as [1, 3].')
    if not all(-depth <= i < depth for i in listed):
        raise ValueError(f'{key}={indices!r} goes beyond the {depth} {unit}s of this model.')
    blocks = tuple(i % depth for i in listed)
    if any(one >= following for one, following in zip(blocks, blocks[1:])):
        raise ValueError(f'{key}={indices!r} must rise: outputs come in the order of the {unit}s, each once.')
    return blocks


def check_layer(key: str, layer: Any, depth: int | None = None) -> int:
    """Returns a block, counted from 0.

    Args:
        key (str): Name of the argument.
        layer (Any): Its value.
        depth (int, optional): Number of blocks of the model, if it is known.

    Raises:
        ValueError: For another type, or a block that the model does not have.
    """
    if not isinstance(layer, int) or isinstance(layer, bool) or layer < 0 or (depth is not None and layer >= depth):
        blocks = 'blocks are counted from 0' if depth is None else f'it has blocks 0 to {depth - 1}'
        raise ValueError(f'{key}={layer!r} is not a block of this model; {blocks}.')
    return layer


def check_grid(key: str, grid: Any) -> Grid:
    """Checks a grid: ``(h, w)`` in tokens, or the part of each side to keep, in (0, 1].

    Returns:
        float | tuple[int, int]: The grid; a part as a float, sides as a tuple.

    Raises:
        ValueError: For anything else.
    """
    if isinstance(grid, (int, float)) and not isinstance(grid, bool):
        if not 0 < grid <= 1:
            raise ValueError(
                f'{key}={grid} is outside (0, 1]; give the part of each side to keep, such as 0.5, '
                'or the token grid as (height, width).'
            )
        return float(grid)
    if (
        not isinstance(grid, (list, tuple))
        or len(grid) != 2
        or not all(isinstance(g, int) and not isinstance(g, bool) and g > 0 for g in grid)
    ):
        raise ValueError(f'{key}={grid!r} is not a grid; give (height, width) in tokens or a ratio in (0, 1].')
    return grid[0], grid[1]


def resolve_grid(key: str, grid: Grid, raster: tuple[int, int]) -> tuple[int, int]:
    """Turns a checked grid into ``(h, w)`` for tokens that lie on ``raster``.

    Raises:
        ValueError: If it is larger than ``raster`` in height or width.
    """
    if isinstance(grid, float):
        return max(1, round(raster[0] * grid)), max(1, round(raster[1] * grid))
    if grid[0] > raster[0] or grid[1] > raster[1]:
        raise ValueError(
            f"{key}={grid} is larger than the image's {raster[0]}x{raster[1]} tokens; "
            'give a smaller grid, or a ratio that follows the image.'
        )
    return grid[0], grid[1]


def _inside(value: float, low: float | None, high: float | None) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)


def _limits(low: float | None, high: float | None, above: bool = False, below: bool = False) -> str:
    if low is not None and high is not None:
        return f' in {"(" if above else "["}{low}, {high}{")" if below else "]"}'
    if low is not None:
        return f' {"above" if above else "of at least"} {low}'
    return '' if high is None else f' {"below" if below else "of at most"} {high}'
