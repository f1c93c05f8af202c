"""Checks of a tool's command line: numbers in range, and no flag that would do nothing."""

import math
from argparse import Namespace
from typing import Any

from .errors import UserError


def given(args: Namespace, flag: str) -> bool:
    """Whether a flag is there; its default must be None, False or an empty list."""
    value = getattr(args, flag)
    return not (value is None or value is False or value == [])


def check_least(args: Namespace, **least: float) -> None:
    """Fails if a number that a flag gives, or one of several, is not finite or less than its least value."""
    for flag, low in least.items():
        for value in _values(getattr(args, flag)):
            if not (math.isfinite(value) and value >= low):
                raise UserError(f'{_name(flag)} {value}: give {low} or more')


def check_positive(args: Namespace, *flags: str) -> None:
    """Fails if a number that a flag gives, or one of several, is not finite or not above 0."""
    for flag in flags:
        for value in _values(getattr(args, flag)):
            if not (math.isfinite(value) and value > 0):
                raise UserError(f'{_name(flag)} {value}: must be above 0')


def check_finite(args: Namespace, *flags: str) -> None:
    """Fails if a number that a flag gives is nan or infinite."""
    for flag in flags:
        for value in _values(getattr(args, flag)):
            if not math.isfinite(value):
                raise UserError(f'{_name(flag)} {value}: give a finite number')


def check_parts(args: Namespace, *flags: str) -> None:
    """Fails if a number that a flag gives, or one of several, is no part of a whole."""
    for flag in flags:
        for value in _values(getattr(args, flag)):
            if not 0 < value < 1:
                raise UserError(f'{_name(flag)} {value:g}: give a part of the size, between 0 and 1')


def check_apart(args: Namespace, flag: str, *others: str, why: str) -> None:
    """Fails if a flag is given beside one that makes it useless; says ``why``."""
    for other in others:
        if given(args, flag) and given(args, other):
            raise UserError(f'{_name(flag)} would do nothing beside {_name(other)}: {why}')


def check_needs(args: Namespace, flag: str, *others: str) -> None:
    """Fails if a flag is given without any of those that it belongs to."""
    if given(args, flag) and not any(given(args, other) for other in others):
        raise UserError(f'{_name(flag)} would do nothing without {" or ".join(map(_name, others))}; give one of them')


def _values(value: Any) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]


def _name(flag: str) -> str:
    return f'--{flag.replace("_", "-")}'
