"""What a checkpoint of mmengine may hold beyond tensors, as torch's safe unpickler reads it.

The unpickler calls whatever is trusted, with arguments out of the file. So nothing of numpy and nothing of mmengine is
trusted itself: each name in a file stands for one of the small readers below, which check what they are given before
numpy sees it. Only numbers come out.
"""

import math
import pickle
import sys
from typing import Any, NoReturn, SupportsIndex

import numpy as np

#: Types that the numbers of a checkpoint may have, as numpy's pickles write them: ``f8``, ``i4``, ``b1``, …
CODES = {np.dtype(code).str[1:] for code in '?' + np.typecodes['AllInteger'] + np.typecodes['Float']}
#: Functions that mmengine itself registers as statistics of a HistoryBuffer.
STATISTICS = ('min', 'max', 'current', 'mean')


def refuse(what: str) -> NoReturn:
    """Raises ``UnpicklingError``."""
    raise pickle.UnpicklingError(f'{what} is refused: a checkpoint holds plain arrays of numbers')


class Name:
    """Stands for a name that a file may mention, but neither call nor build."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name


class DType:
    """Reads ``numpy.dtype(code, align, copy)`` and the state that follows it: numbers only, in either byte order."""

    def __init__(self, code: str, align: Any = False, copy: Any = False):
        if not isinstance(code, str) or code not in CODES:
            refuse(f'the type {code!r:.40}')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if type(state) is not tuple or state[:1] != (3,) or state[2:] != (None, None, None, -1, -1, 0):
            refuse('a type with fields or flags')
        if state[1] not in ('<', '>', '=', '|'):
            refuse(f'the byte order {state[1]!r:.40}')
        self.dtype = self.dtype.newbyteorder(state[1])


class Array(np.ndarray):
    """Reads ``numpy.ndarray`` and the state that follows it; pickles as a plain array."""

    def __new__(cls, *args, **kwargs):
        refuse('an array with arguments')

    def __setstate__(self, state: tuple) -> None:
        if type(state) is not tuple or len(state) != 5 or state[0] != 1:
            refuse('the state of an array')
        _, shape, dtype, fortran, data = state
        if type(shape) is not tuple or len(shape) > 32 or any(type(n) is not int or n < 0 for n in shape):
            refuse(f'the shape {shape!r:.40}')
        if type(dtype) is not DType or type(fortran) is not bool or type(data) is not bytes:
            refuse('the content of an array')
        itemsize = dtype.dtype.itemsize
        if math.prod(shape) * itemsize != len(data) or math.prod(n or 1 for n in shape) * itemsize > sys.maxsize:
            refuse(f'an array of shape {shape!r:.40} with {len(data)} bytes')
        checked: Any = (1, shape, dtype.dtype, fortran, data)  # numpy's stub asks for its own bool
        super().__setstate__(checked)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    """Reads ``_reconstruct(numpy.ndarray, (0,), b'b')``, an empty array that gets its state later."""
    if kind is not Array or shape != (0,):
        refuse('an array that is not empty at first')
    return np.ndarray.__new__(Array, (0,), np.int8)


def scalar(dtype: Any, data: Any) -> np.generic:
    """Reads ``scalar(dtype, bytes)``, one number."""
    if type(dtype) is not DType or type(data) is not bytes or len(data) != dtype.dtype.itemsize:
        refuse('a number')
    return np.frombuffer(data, dtype.dtype)[0]


class _History:
    """Reads HistoryBuffer and the state that follows it, then becomes the real class, of which this is a subclass.

    The statistics are those of the running process, not of the file.
    """

    _set_default_statistics: Any  # of the real class

    def __init__(self, *args, **kwargs):
        refuse('a HistoryBuffer with arguments')

    def __setstate__(self, state: dict) -> None:
        keys = {'max_length', '_log_history', '_count_history'}
        if type(state) is not dict or set(state) - {'statistics_methods'} != keys:
            refuse('the state of a HistoryBuffer')
        log, count, length = state['_log_history'], state['_count_history'], state['max_length']
        if type(log) is not Array or type(count) is not Array or log.ndim != 1 or log.shape != count.shape:
            refuse('the history of a HistoryBuffer')
        if type(length) is not int:
            refuse('the length of a HistoryBuffer')
        self._set_default_statistics()
        self.__dict__.update(max_length=length, _log_history=np.array(log), _count_history=np.array(count))
        self.__class__ = type(self).__mro__[2]


def statistic(owner: Any, name: Any) -> Name:
    """Reads ``getattr(HistoryBuffer, name)`` of mmengine's own statistics, which is how files mention them."""
    if not (isinstance(owner, type) and issubclass(owner, _History)) or name not in STATISTICS:
        refuse(f'getattr({owner!r:.40}, {name!r:.40})')
    return Name(name)


def trusted(history_buffer: type) -> list[tuple]:
    """Returns what ``torch.serialization.add_safe_globals`` takes: pairs of a reader and its name in files.

    Args:
        history_buffer: mmengine's class.
    """
    where = f'{history_buffer.__module__}.{history_buffer.__qualname__}'
    history = type('History', (_History, history_buffer), {})
    pairs = [(history, where), (statistic, 'builtins.getattr'), (Array, 'numpy.ndarray'), (DType, 'numpy.dtype')]
    # numpy 2 renamed numpy.core to numpy._core: files written by either version say so.
    for core in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        pairs += [(reconstruct, f'{core}._reconstruct'), (scalar, f'{core}.scalar')]
    return pairs


def mentioned(method: Any) -> tuple[Name, str]:
    """Returns such a pair for a statistic that this process registered: files may mention it, and no more."""
    name = f'{method.__module__}.{method.__qualname__}'
    return Name(name), name
