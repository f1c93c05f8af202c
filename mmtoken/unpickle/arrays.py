"""Reads body models and annotations that are pickles, without chumpy, scipy or trust.

Numbers, texts, lists and dicts come out; nothing that a file names is ever called or imported. What it may name is in
:data:`KNOWN`, and each of these stands for a small record here.
"""

import math
import pickle
import re
import zipfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np


def refuse(what: str) -> NoReturn:
    """Raises ``UnpicklingError``."""
    raise pickle.UnpicklingError(what)


class Record:
    """Stands for an object of a file: keeps its state and does nothing."""

    #: Types that the state may have.
    states: tuple[type, ...] = (dict,)

    def __init__(self, *args):
        refuse('an object with arguments')

    def __setstate__(self, state: Any) -> None:
        if type(state) not in self.states:
            refuse('the state of an object')
        self.state = state


class Chumpy(Record):
    """An array of chumpy: its values, or a choice of those of another."""


class Sparse(Record):
    """A matrix of scipy by columns."""


class Array(Record):
    """An array of numpy."""

    states = (tuple,)


class DType(Record):
    """A type of numpy: numbers, texts or objects, in either byte order."""

    states = (tuple,)

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        if type(code) is not str or not re.fullmatch(r'[biuf]\d{1,2}|[US]\d{1,5}|O8?', code):
            refuse(f'the type {code!r:.40}')
        self.code, self.state = code, (3, '<')

    @property
    def dtype(self) -> np.dtype:
        order = self.state[1] if len(self.state) > 1 and self.state[1] in ('<', '>') else '|'
        return np.dtype(object) if self.code[0] == 'O' else np.dtype(order.replace('|', '') + self.code)


class Call:
    """A function that a file may call, and not alter: pickles can set attributes of what they get."""

    __slots__ = ('function',)

    def __init__(self, function: Any):
        self.function = function

    def __call__(self, *args) -> Any:
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        refuse('the state of a function')


def _rebuild(kind: Any, base: Any, state: Any) -> Record:
    """Reads ``copyreg._reconstructor(kind, object, None)``, how old pickles make objects."""
    if kind not in (Chumpy, Sparse) or base is not object or state is not None:
        refuse('an object of unknown kind')
    return kind.__new__(kind)


def _array(kind: Any, shape: Any, code: Any) -> Array:
    """Reads ``numpy.core.multiarray._reconstruct``, an empty array that gets its state later."""
    if kind is not Array:
        refuse('an array of unknown kind')
    return Array.__new__(Array)


def _number(dtype: Any, data: Any) -> Any:
    """Reads ``numpy.core.multiarray.scalar``, one number."""
    if type(dtype) is not DType:
        refuse('a number')
    return _values((1, (), dtype, False, data))[()]


def _encode(text: Any, encoding: Any) -> bytes:
    """Reads ``_codecs.encode(text, 'latin1')``, how Python 3 writes bytes for Python 2."""
    if type(text) is not str or encoding != 'latin1':
        refuse('an encoding')
    return text.encode('latin1')


#: What a name in a file stands for; all others are refused.
KNOWN: dict[tuple[str, str], Any] = {
    ('numpy', 'ndarray'): Array,
    ('numpy', 'dtype'): DType,
    ('scipy.sparse.csc', 'csc_matrix'): Sparse,
    ('scipy.sparse._csc', 'csc_matrix'): Sparse,
    ('chumpy.ch', 'Ch'): Chumpy,
    ('chumpy.reordering', 'Select'): Chumpy,
    ('_codecs', 'encode'): Call(_encode),
}
for _core in ('numpy.core.multiarray', 'numpy._core.multiarray'):
    KNOWN[_core, '_reconstruct'], KNOWN[_core, 'scalar'] = Call(_array), Call(_number)
for _module in ('copy_reg', 'copyreg'):
    KNOWN[_module, '_reconstructor'] = Call(_rebuild)
for _module in ('__builtin__', 'builtins'):  # of Python 2 and 3
    KNOWN[_module, 'object'] = object


class _Unpickler(pickle.Unpickler):
    known: Mapping[tuple[str, str], Any] = KNOWN

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.known:
            refuse(f'it names {module}.{name}')
        return self.known[module, name]


def read_pickle(path: str | Path, known: Mapping[tuple[str, str], Any] = KNOWN, raw: bool = False) -> Any:
    """Returns what a pickle holds, as :func:`plain` gives it.

    Args:
        path (str | Path): The file.
        known (Mapping): What the names in it stand for. Defaults to :data:`KNOWN`.
        raw (bool): Return records as they are. Defaults to False.

    Raises:
        ValueError: If the file is no pickle, or names anything else than arrays; nothing of it was run.
    """
    with open(path, 'rb') as file:
        return _guarded(path, file, known, raw)


def read_npz(path: str | Path, names: Container[str] | None = None) -> dict[str, Any]:
    """Returns what an ``.npz`` holds by name, pickled dicts and lists too, as :func:`plain` gives them.

    Args:
        path (str | Path): The file.
        names (Container[str], optional): Only what has these names; None reads all.

    Raises:
        ValueError: If the file is no such archive, or names anything else than arrays; nothing of it was run.
    """
    found = {}
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f'{path}: is no .npz file ({error}); get it anew') from error
    with archive:
        for name in archive.namelist():
            if names is None or name.removesuffix('.npy') in names:
                with archive.open(name) as member:
                    found[name.removesuffix('.npy')] = _member(path, member)
    return found


def _member(path: str | Path, member: IO[bytes]) -> Any:
    try:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        dtype = read(member)[2]
        if not dtype.hasobject:
            member.seek(0)
            return np.lib.format.read_array(member, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f'{path}: is broken ({error}); get it anew') from error
    return _guarded(path, member)


def _guarded(path: str | Path, file: IO[bytes], known: Mapping = KNOWN, raw: bool = False) -> Any:
    try:
        unpickler = _Unpickler(file, encoding='latin1')
        unpickler.known = known
        found = unpickler.load()
        return found if raw else plain(found)
    except OSError:
        raise
    except Exception as error:  # broken pickles raise nearly anything
        what = str(error).strip().split('\n')[0] or type(error).__name__
        raise ValueError(
            f'{path}: was not read ({what}): only numbers and texts in arrays of numpy, chumpy and scipy are; get the '
            'file anew from its makers, or save its arrays with numpy.savez'
        ) from error


def plain(value: Any) -> Any:
    """Returns arrays for records, in dicts, lists and tuples too; an array of one object becomes that object."""
    if isinstance(value, Record):
        return to_array(value)
    if type(value) is dict:
        return {key: plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(each) for each in value)
    return value


def to_array(record: Record) -> Any:
    """Returns the values of a record.

    Raises:
        ValueError: If it holds none.
    """
    if isinstance(record, Array):
        return _values(record.state)
    if isinstance(record, Chumpy) and 'x' in record.state:
        return np.asarray(plain(record.state['x']))
    if isinstance(record, Chumpy) and 'a' in record.state and 'idxs' in record.state:
        chosen = np.ravel(plain(record.state['a']))[plain(record.state['idxs'])]
        shape = record.state.get('preferred_shape')
        return chosen if shape is None else chosen.reshape(tuple(int(n) for n in plain(shape)))
    if isinstance(record, Sparse):
        return _dense(record.state)
    raise ValueError(f'{type(record).__name__} without values')


def _values(state: tuple) -> Any:
    """Returns the array that numpy's ``(1, shape, dtype, fortran, data)`` describes; objects as a list, or alone."""
    _, shape, dtype, fortran, data = state
    if type(dtype) is not DType or type(shape) is not tuple or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError('an array without shape or type')
    if dtype.dtype.hasobject:
        if type(data) is not list or len(data) != math.prod(shape):
            raise ValueError('an array of objects without them')
        return plain(data[0]) if shape == () else [plain(each) for each in data]
    data = data.encode('latin1') if type(data) is str else data
    if type(data) is not bytes or len(data) != math.prod(shape) * dtype.dtype.itemsize:
        raise ValueError(f'an array of shape {shape} with other values')
    return np.frombuffer(data, dtype.dtype).reshape(shape, order='F' if fortran else 'C').copy()


def _dense(state: dict) -> np.ndarray:
    """Writes a matrix by columns out in full."""
    rows, columns = (int(n) for n in plain(state.get('_shape', state.get('shape'))))
    data, indices, ends = (np.asarray(plain(state[key])) for key in ('data', 'indices', 'indptr'))
    if rows * columns > 10**8:
        raise ValueError(f'a matrix of {rows}×{columns}')
    full = np.zeros((rows, columns), data.dtype)
    full[indices, np.repeat(np.arange(columns), np.diff(ends))] = data
    return full
