"""Reads tables of pandas and tensors of torch that were pickled, without pandas and without trust.

Tables of pandas 1 and 2 with columns of objects or numbers are read; those of pandas 3 keep texts in a way of their own
and are refused by the name of what they hold.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import KNOWN, Array, Call, DType, Record, plain, read_pickle, refuse


class Frame(Record):
    """A table: its state names the manager of its columns."""


class Manager(Record):
    """The columns of a table: axes, and blocks of columns of one type, with the places of these.

    pandas since 1.3 makes it from its parts, and before gave it a state.
    """

    states = (tuple,)

    def __init__(self, blocks: Any, axes: Any):
        self.blocks, self.axes = blocks, axes

    def __setstate__(self, state: Any) -> None:
        parts = state[3].get('0.14.1') if type(state) is tuple and len(state) == 4 and type(state[3]) is dict else None
        if not isinstance(parts, dict):
            refuse('a table of an old pandas')
        self.blocks = tuple((block['values'], block['mgr_locs']) for block in parts['blocks'])
        self.axes = parts['axes']


class Labels(Record):
    """A class of labels, which is only named."""


def _block(values: Any, places: Any, ndim: Any) -> tuple:
    """Reads ``pandas._libs.internals._unpickle_block``."""
    return values, places


def _labels(kind: Any, about: Any) -> list:
    """Reads ``pandas.core.indexes.base._new_Index``: labels of columns or rows."""
    if kind is not Labels or type(about) is not dict:
        refuse('labels of a table')
    if 'data' in about:
        return list(np.asarray(plain(about['data']), dtype=object))
    return list(range(*(int(about[key]) for key in ('start', 'stop', 'step'))))


def _buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
    """Reads ``numpy.core.numeric._frombuffer``, an array as protocol 5 has it."""
    if type(dtype) is not DType or type(data) not in (bytes, bytearray) or order not in ('C', 'F'):
        refuse('an array of a buffer')
    array = Array.__new__(Array)
    array.state = (1, shape, dtype, order == 'F', bytes(data))
    return array


def _storage(data: Any) -> Any:
    """Reads ``torch.storage._load_from_bytes`` by torch's safe loader, onto the CPU."""
    import torch

    if type(data) is not bytes:
        refuse('a storage of torch')
    return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> np.ndarray:
    """Reads ``torch._utils._rebuild_tensor_v2``: a view of a storage, as an array."""
    import torch

    numbers = (offset, *size, *stride)
    if not isinstance(storage, torch.storage.TypedStorage) or any(type(n) is not int or n < 0 for n in numbers):
        refuse('a tensor')
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    flat = torch.tensor([], dtype=storage.dtype).set_(storage._untyped_storage)
    if 0 not in size and last >= len(flat):
        refuse('a tensor that is larger than its storage')
    return torch.as_strided(flat, size, stride, offset).numpy().copy()


def _parameter(data: Any, *rest: Any) -> Any:
    """Reads ``torch._utils._rebuild_parameter``."""
    return data


MORE: dict[tuple[str, str], Any] = {
    ('pandas.core.frame', 'DataFrame'): Frame,
    ('pandas.core.internals.managers', 'BlockManager'): Manager,
    ('pandas._libs.internals', '_unpickle_block'): Call(_block),
    ('pandas.core.indexes.base', '_new_Index'): Call(_labels),
    ('builtins', 'slice'): Call(slice),
    ('__builtin__', 'slice'): Call(slice),
    ('collections', 'OrderedDict'): dict,
    ('torch.storage', '_load_from_bytes'): Call(_storage),
    ('torch._utils', '_rebuild_tensor_v2'): Call(_tensor),
    ('torch._utils', '_rebuild_parameter'): Call(_parameter),
}
for _module, _name in (('base', 'Index'), ('range', 'RangeIndex'), ('numeric', 'Int64Index')):
    MORE[f'pandas.core.indexes.{_module}', _name] = Labels
for _core in ('numpy.core.numeric', 'numpy._core.numeric'):
    MORE[_core, '_frombuffer'] = Call(_buffer)


def read_tensors(path: str | Path) -> Any:
    """Returns what a pickle holds, tensors of torch as arrays; see :func:`.arrays.read_pickle`.

    Raises:
        ValueError: If the file is no pickle, or names anything else; nothing of it was run.
    """
    return read_pickle(path, KNOWN | MORE)


def read_table(path: str | Path) -> dict[str, list]:
    """Returns the columns of a pickled table, by name a list of the values of its rows.

    Raises:
        ValueError: If the file holds no table, or one of another version of pandas; nothing of it was run.
    """
    frame = read_pickle(path, KNOWN | MORE, raw=True)
    if not isinstance(frame, Frame):
        raise ValueError(f'{path}: holds no table of pandas but {type(frame).__name__}')
    manager = frame.state.get('_mgr', frame.state.get('_data'))
    if not isinstance(manager, Manager):
        raise ValueError(f'{path}: is a table of an unknown version of pandas; save it anew with pandas 1 or 2')
    names, rows = manager.axes[0], len(manager.axes[1])
    columns: dict[str, list] = {}
    for values, places in manager.blocks:
        places = range(len(names))[places] if type(places) is slice else np.ravel(plain(places)).tolist()
        for place, column in zip(places, _rows(values, len(places), rows), strict=True):
            columns[str(names[place])] = column
    return columns


def _rows(values: Any, number: int, length: int) -> list[list]:
    """Returns the columns of a block, each a list; numpy writes objects row by row, however they lie in memory."""
    if not isinstance(values, Array) or tuple(values.state[1]) != (number, length):
        raise ValueError('a block of a table that is no array of its columns')
    found = plain(values)
    if isinstance(found, np.ndarray):
        return found.tolist()
    return [found[i * length : (i + 1) * length] for i in range(number)]
