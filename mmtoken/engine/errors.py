"""Mistakes of the user: one line on stderr and exit code 2. Faults of the code keep their traceback.

``MMTOKEN_DEBUG=1`` in the environment shows the traceback of everything.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from types import TracebackType
from typing import Any

from mmengine.registry import Registry

PACKAGE = str(Path(__file__).resolve().parents[1])
#: Assertions of upstream's about what the user can mend: what they begin with, and the line that says it.
ASSERTED = {
    'The image size in a batch should be the same': (
        'pictures of a batch differ in size, and mmseg pads them in training only: set batch_size=1 in val_dataloader '
        'and test_dataloader, or Resize with keep_ratio=False in their pipelines'
    ),
}


class UserError(Exception):
    """A mistake of the user's, in one line: what is wrong, what would be right. See :func:`one_line_errors`."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Inside, what the user can mend ends the program with one line on stderr and exit code 2, argparse's own.

    That is a :class:`UserError`, a ``ValueError`` or ``TypeError`` raised in mmtoken, one of :data:`ASSERTED`, an
    operator of mmcv that it has no stand-in for, and a file that cannot be read or written (``OSError``). Any other
    error keeps its traceback. Ctrl-C ends it with one line and the exit code of shells for that, 130.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if _debugging():
            raise
        print('stopped by Ctrl-C', file=sys.stderr)
        raise SystemExit(130) from error
    except Exception as error:
        line = _line(error)
        if line is None or _debugging():
            raise
        print(line, file=sys.stderr)
        end = SystemExit(line)  # which holds the line, though the interpreter only looks at the code
        end.code = 2
        raise end from error


def _debugging() -> bool:
    return os.environ.get('MMTOKEN_DEBUG', '0') not in ('', '0')


@contextmanager
def user_errors(what: str) -> Iterator[None]:
    """Inside, every error becomes a :class:`UserError` that begins with ``what``.

    For work that the user's input decides: reading a config, or building what it describes.
    """
    try:
        yield
    except UserError:
        raise
    except NotImplementedError:  # which says what is missing here, and is no fault of the input
        raise
    except Exception as error:
        line = _line(error)
        if line is None:
            line = f'{what}: {reason(error)} (MMTOKEN_DEBUG=1 shows where)'
        raise UserError(line) from error


def reason(error: BaseException) -> str:
    """What an error says, in one line, with the nearest names that there are."""
    if isinstance(error, RecursionError):
        return 'it includes itself without end'
    if isinstance(error, SyntaxError):
        where = f' in line {error.lineno}' if error.lineno else ''
        return f'{error.msg}{where}'
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = text.split(' Please check whether the value of')[0]
    line = (text.strip().splitlines() or [''])[0].strip()
    if not isinstance(error, (TypeError, ValueError, AssertionError, ImportError, OSError)) and 'registry' not in line:
        line = f'{type(error).__name__}: {line}'
    return (line or type(error).__name__) + _nearest(error)


def _nearest(error: BaseException) -> str:
    """``'; did you mean …?'`` where a type or an argument of a config is unknown to the registry or the class."""
    frames = [trace.tb_frame for trace in _frames(error.__traceback__)]
    build = next((frame for frame in reversed(frames) if frame.f_code.co_name == 'build_from_cfg'), None)
    if build is None:
        return ''
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unexpected and (kind := build.f_locals.get('obj_cls')):
        name = getattr(kind, '__name__', str(kind))
        near = get_close_matches(unexpected[1], _arguments(kind), 1)
        return f'; {name} has {near[0]}, did you mean that?' if near else f', which {name} does not take'
    if isinstance(error, KeyError) and isinstance(build.f_locals.get('obj_type'), str):
        return nearest_type(build.f_locals['registry'], build.f_locals['obj_type'])
    return ''


def nearest_type(registry: Registry | None, name: str) -> str:
    """``'; did you mean …?'`` for a type that a registry, its parents and their children do not know; or nothing."""
    names: dict[str, str] = {}
    while registry is not None:
        for part in (*registry._children.values(), registry):
            names.update({known.lower(): f'{part.scope}.{known}' for known in part.module_dict})
        registry = registry.parent
    near = get_close_matches(name.split('.')[-1].lower(), names, 1)
    return f'; did you mean {names[near[0]]}?' if near else ''


def _arguments(kind: Any) -> set[str]:
    """Names of all arguments of a class, those that it passes on to its bases too."""
    found: set[str] = set()
    for cls in getattr(kind, '__mro__', [kind]):
        try:
            found.update(signature(cls.__init__ if isinstance(cls, type) else cls).parameters)
        except (TypeError, ValueError):
            continue
    return found - {'self', 'args', 'kwargs'}


def _frames(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _line(error: BaseException) -> str | None:
    """The line for an error that the user can mend, None for any other."""
    if isinstance(error, UserError):
        return _from_worker(str(error)) or str(error)
    if isinstance(error, OSError):
        name = f'{error.filename}: ' if error.filename else ''
        return f'{name}{error.strerror or reason(error)}'
    if isinstance(error, AssertionError):
        return next((line for start, line in ASSERTED.items() if str(error).startswith(start)), None)
    if not isinstance(error, (TypeError, ValueError, NotImplementedError)):
        return None
    if 'in DataLoader worker process' in str(error):
        return _from_worker(str(error))
    root: BaseException = error
    while type(root.__context__) is type(error):  # older mmengine wraps it in its own kind
        root = root.__context__
    *_, last = _frames(root.__traceback__)
    module = last.tb_frame.f_globals['__name__']
    if not module.startswith('mmtoken.') and module != 'mmcv._ext':
        return None
    return re.sub(r'class `\w+` in \S+: ', '', str(error))


def _from_worker(text: str) -> str | None:
    """The line of an error of mmtoken's in a worker of a DataLoader, of which torch hands on the traceback as text."""
    files = re.findall(r'File "(.+?)", line', text)
    if 'in DataLoader worker process' not in text or not files or not files[-1].startswith(PACKAGE):
        return None
    return re.sub(r'^[\w.]+: ', '', text.strip().splitlines()[-1])
