"""Reads SMPL's pickles without chumpy, scipy or trust: numbers come out, nothing of the file is ever called."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from mmtoken._unpickle import Array, DType, refuse, scalar


class OldArray(Array):
    """Reads an array of a pickle that Python 2 wrote, where bytes came as text."""

    def __setstate__(self, state: tuple) -> None:
        if type(state) is tuple and len(state) == 5 and type(state[4]) is str:
            state = (*state[:3], bool(state[3]), state[4].encode('latin1'))
        super().__setstate__(state)


def reconstruct(kind: Any, shape: Any, code: Any) -> OldArray:
    """Reads ``numpy.core.multiarray._reconstruct``, an empty array that gets its state later."""
    if kind is not OldArray or shape != (0,):
        refuse('an array that is not empty at first')
    return np.ndarray.__new__(OldArray, (0,), np.int8)


def number(dtype: Any, data: Any) -> np.generic:
    """Reads ``numpy.core.multiarray.scalar``."""
    return scalar(dtype, data.encode('latin1') if type(data) is str else data)


def encode(text: Any, encoding: Any) -> bytes:
    """Reads ``_codecs.encode(text, 'latin1')``, how Python 3 writes bytes for Python 2."""
    if type(text) is not str or encoding != 'latin1':
        refuse('an encoding')
    return text.encode('latin1')


class Record:
    """Stands for an object of chumpy or scipy: keeps its state, a dict, and does nothing."""

    def __init__(self, *args):
        refuse('an object with arguments')

    def __setstate__(self, state: Any) -> None:
        if type(state) is not dict:
            refuse('the state of an object')
        self.state = state


class Chumpy(Record):
    """An array of chumpy: its values, or a choice of those of another."""


class Sparse(Record):
    """A matrix of scipy by columns."""


def rebuild(kind: Any, base: Any, state: Any) -> Record:
    """Reads ``copyreg._reconstructor(kind, object, None)``, how old pickles make objects."""
    if kind not in (Chumpy, Sparse) or base is not object or state is not None:
        refuse('an object of unknown kind')
    return kind.__new__(kind)


class Call:
    """A function that a file may call, and not alter: pickles can set attributes of what they get."""

    __slots__ = ('function',)

    def __init__(self, function: Any):
        self.function = function

    def __call__(self, *args) -> Any:
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        refuse('the state of a function')


#: What a name in a file stands for; all others are refused.
KNOWN: dict[tuple[str, str], Any] = {
    ('numpy', 'ndarray'): OldArray,
    ('numpy', 'dtype'): DType,
    ('scipy.sparse.csc', 'csc_matrix'): Sparse,
    ('scipy.sparse._csc', 'csc_matrix'): Sparse,
    ('chumpy.ch', 'Ch'): Chumpy,
    ('chumpy.reordering', 'Select'): Chumpy,
}
for _core in ('numpy.core.multiarray', 'numpy._core.multiarray'):
    KNOWN[_core, '_reconstruct'], KNOWN[_core, 'scalar'] = Call(reconstruct), Call(number)
KNOWN['_codecs', 'encode'] = Call(encode)
for _module in ('copy_reg', 'copyreg'):
    KNOWN[_module, '_reconstructor'] = Call(rebuild)
for _module in ('__builtin__', 'builtins'):  # of Python 2 and 3
    KNOWN[_module, 'object'] = object


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f'it names {module}.{name}')
        return KNOWN[module, name]


def read_pickle(path: Path) -> dict[str, Any]:
    """Returns what a body model's pickle holds.

    Args:
        path (Path): A file as SMPL's site offers it.

    Returns:
        dict[str, Any]: By name; arrays of numpy, of chumpy and of scipy as :func:`to_array` takes them.

    Raises:
        ValueError: If the file is no such pickle, or mentions anything else than arrays; nothing of it was run.
    """
    try:
        with open(path, 'rb') as file:
            found = _Unpickler(file, encoding='latin1').load()
    except OSError:
        raise
    except Exception as error:  # broken pickles raise nearly anything
        what = str(error).split(' is refused')[0].strip().split('\n')[0] or type(error).__name__
        raise ValueError(
            f'{path}: not read as a body model ({what}): only arrays of numpy, chumpy and scipy are; get the file anew '
            'from its makers, or save its arrays with numpy.savez'
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f'{path}: holds no body model but {type(found).__name__}; SMPL files hold named arrays')
    return found


def to_array(value: Any) -> np.ndarray:
    """Returns the numbers of an array of numpy, chumpy or scipy.

    Raises:
        ValueError: If there are none.
    """
    if isinstance(value, np.ndarray):
        return np.array(value)
    if isinstance(value, Chumpy) and 'x' in value.state:
        return to_array(value.state['x'])
    if isinstance(value, Chumpy) and 'a' in value.state and 'idxs' in value.state:
        chosen = to_array(value.state['a']).ravel()[to_array(value.state['idxs'])]
        shape = value.state.get('preferred_shape')
        return chosen if shape is None else chosen.reshape(tuple(int(n) for n in shape))
    if isinstance(value, Sparse):
        return _dense(value.state)
    raise ValueError(f'{type(value).__name__} is no array')


def _dense(state: dict) -> np.ndarray:
    """Writes a matrix by columns out in full."""
    rows, columns = (int(n) for n in state.get('_shape', state.get('shape')))
    data, indices, ends = (to_array(state[key]) for key in ('data', 'indices', 'indptr'))
    if rows * columns > 10**8:
        raise ValueError(f'a matrix of {rows}×{columns} is no joint regressor')
    full = np.zeros((rows, columns), data.dtype)
    full[indices, np.repeat(np.arange(columns), np.diff(ends))] = data
    return full
