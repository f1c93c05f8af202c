"""What torch's safe unpickler reads after ``import mmtoken``: checkpoints of mmengine, and nothing else of numpy."""

import io
import json
import os
import pickle
import subprocess
import sys
import textwrap
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import mmtoken

ROOT = Path(mmtoken.__file__).parents[1]


def run(code: str, cwd: Path) -> str:
    """Output of code in a fresh interpreter."""
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, '-W', 'ignore', '-c', textwrap.dedent(code)]
    done = subprocess.run(command, env=env, cwd=cwd, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def reread(thing):
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    buffer.seek(0)
    return torch.load(buffer)


@pytest.mark.parametrize('dtype', ['?', 'u1', 'i2', 'i4', 'i8', 'u8', 'f2', 'f4', 'f8'])
def test_numbers_of_numpy_are_trusted(dtype):
    import mmengine.logging  # noqa: F401

    array = np.arange(6).reshape(2, 3).astype(dtype)
    again = reread(dict(array=array, scalar=array[1, 2]))
    assert again['array'].dtype == array.dtype and (again['array'] == array).all()
    assert again['scalar'] == array[1, 2]


def test_checkpoints_of_the_other_numpy_are_read():
    """numpy 1 wrote ``numpy.core``, numpy 2 writes ``numpy._core``; published checkpoints are of the former kind."""
    import mmengine.logging  # noqa: F401

    buffer = io.BytesIO()
    torch.save(dict(a=np.arange(3.0)), buffer, _use_new_zipfile_serialization=False)
    raw = buffer.getvalue()
    old, new = b'cnumpy.core.multiarray\n', b'cnumpy._core.multiarray\n'
    assert (old in raw) != (new in raw)
    swapped = raw.replace(old, new) if old in raw else raw.replace(new, old)
    assert torch.load(io.BytesIO(swapped))['a'].tolist() == [0.0, 1.0, 2.0]


class Reduced:
    """Pickles as a call of ``function(*args)``."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Foreign:
    pass


@pytest.mark.parametrize(
    'evil, named',
    [
        (Reduced(os.system, 'true'), r'posix\.system|nt\.system'),
        (Reduced(getattr, 'text', 'upper'), 'getattr'),
        (Reduced(getattr, torch.Tensor, 'numpy'), 'getattr'),
        (Reduced(eval, '1'), 'eval'),
        (Foreign(), 'Foreign'),
    ],
)
def test_other_pickles_are_refused_in_one_line(tmp_path, evil, named):
    from mmengine.runner.checkpoint import CheckpointLoader

    path = tmp_path / 'evil.pth'
    torch.save(dict(state_dict={}, extra=evil), path)
    with pytest.raises(pickle.UnpicklingError, match=named):
        torch.load(path)
    with pytest.raises(pickle.UnpicklingError, match=named) as refusal:
        CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    message = str(refusal.value)
    assert '\n' not in message and 'evil.pth' in message and 'add_safe_globals' in message


#: Pieces of pickles, protocol 2, that are put together to what a file of mmengine never holds.
GLOBAL = {
    'array': b'cnumpy._core.multiarray\n_reconstruct\n',
    'scalar': b'cnumpy._core.multiarray\nscalar\n',
    'ndarray': b'cnumpy\nndarray\n',
    'dtype': b'cnumpy\ndtype\n',
    'history': b'cmmengine.logging.history_buffer\nHistoryBuffer\n',
    'getattr': b'c__builtin__\ngetattr\n',
    'tensor': b'ctorch\nTensor\n',
    'ordered': b'ccollections\nOrderedDict\n',
}


def raw(thing) -> bytes:
    """Opcodes that push plain data."""
    if isinstance(thing, Piece):
        return thing.code
    if isinstance(thing, tuple):
        return b'(' + b''.join(map(raw, thing)) + b't'
    if isinstance(thing, list):
        return b'](' + b''.join(map(raw, thing)) + b'e'
    if isinstance(thing, dict):
        return b'}(' + b''.join(raw(x) for pair in thing.items() for x in pair) + b'u'
    if isinstance(thing, bytes):
        return b'c_codecs\nencode\n' + raw((thing.decode('latin1'), 'latin1')) + b'R'
    return pickle.dumps(thing, 2)[2:-1]


class Piece:
    def __init__(self, code: bytes):
        self.code = code

    def __call__(self, *args):
        return Piece(self.code + raw(args) + b'R')

    def new(self, *args):
        return Piece(self.code + raw(args) + b'\x81')

    def build(self, state):
        return Piece(self.code + raw(state) + b'b')


NAMES = types.SimpleNamespace(**{name: Piece(code) for name, code in GLOBAL.items()})
NUMBERS = (3, '<', None, None, None, -1, -1, 0)
F8 = NAMES.dtype('f8', False, True).build(NUMBERS)
EMPTY = NAMES.array(NAMES.ndarray, (0,), b'b')
ARRAY = EMPTY.build((1, (1,), F8, False, b'x' * 8))


def with_state(*state):
    return EMPTY.build(state)


def flags(*rest):
    return NAMES.dtype('f8', False, True).build((3, '<', *rest))


HOSTILE = dict(
    objects=with_state(1, (10**6,), NAMES.dtype('O', False, True), False, [1]),
    object_code=NAMES.dtype('O8', False, True),
    object_by_number=NAMES.dtype('|O', False, True),
    flags_of_objects=flags(None, None, None, -1, -1, 2),
    flags_as_text=flags(None, None, None, -1, -1, '0'),
    all_flags=flags(None, None, None, -1, -1, 255),
    item_size=flags(None, None, None, 10**9, -1, 0),
    alignment=flags(None, None, None, -1, 3, 0),
    fields=flags(None, ('a',), {'a': (F8, 0)}, -1, -1, 0),
    subarray=flags((F8, (10**9,)), None, None, -1, -1, 0),
    metadata=flags(None, None, None, -1, -1, 0, {'a': 1}),
    other_version=NAMES.dtype('f8', False, True).build((4, *NUMBERS[1:])),
    no_state=NAMES.dtype('f8', False, True).build(5),
    byte_order=NAMES.dtype('f8', False, True).build((3, 'x', *NUMBERS[2:])),
    structure=NAMES.dtype([('a', 'f8')], False, True),
    text=NAMES.dtype('U5', False, True),
    void=NAMES.dtype('V1000000000', False, True),
    dates=NAMES.dtype('M8', False, True),
    shape_in_the_code=NAMES.dtype('(1000000,)f8', False, True),
    type_of_a_class=NAMES.dtype(NAMES.tensor, False, True),
    few_bytes=with_state(1, (10**6,), F8, False, b'x' * 8),
    many_bytes=with_state(1, (1,), F8, False, b'x' * 80),
    negative=with_state(1, (-2, -4), F8, False, b'x' * 64),
    negative_and_empty=with_state(1, (0, -5), F8, False, b''),
    overflow=with_state(1, (2**32, 2**32), F8, False, b''),
    empty_and_huge=with_state(1, (0, 2**62, 2**62), F8, False, b''),
    dimensions=with_state(1, (1,) * 65, F8, False, b'x' * 8),
    shape_of_floats=with_state(1, (1.0,), F8, False, b'x' * 8),
    shape_of_bools=with_state(1, (True,), F8, False, b'x' * 8),
    list_of_bytes=with_state(1, (1,), F8, False, [b'x' * 8]),
    state_without_type=with_state(1, (1,), 'f8', False, b'x' * 8),
    state_is_a_number=EMPTY.build(5),
    old_state=with_state((1,), F8, False, b'x' * 8),
    array_of_a_class=NAMES.array(NAMES.tensor, (0,), b'b'),
    full_at_once=NAMES.array(NAMES.ndarray, (10**12,), b'b'),
    array_called=NAMES.ndarray((10**12,), 'f8'),
    array_made=NAMES.ndarray.new((4,), 'O'),
    number_cut=NAMES.scalar(F8, b'x'),
    number_of_objects=NAMES.scalar(NAMES.dtype('O', False, True), b'x' * 8),
    number_itself=NAMES.scalar(F8, [1]),
    history_of_objects=NAMES.history([{}], [1]),
    history_of_tensors=NAMES.history.new().build(dict(max_length=1, _log_history=[1], _count_history=[1])),
    history_with_more=NAMES.history.new().build(dict(max_length=1, _log_history=ARRAY, _count_history=ARRAY, update=1)),
    history_is_a_number=NAMES.history.new().build(5),
    getattr_of_init=NAMES.getattr(NAMES.history, '__init__'),
    getattr_of_tensor=NAMES.getattr(NAMES.tensor, 'numpy'),
    getattr_of_text=NAMES.getattr('text', 'max'),
    statistic_called=Piece(NAMES.getattr(NAMES.history, 'max').code + raw((1,)) + b'R'),
    no_mark=Piece(b'ttt'),
    stack=Piece(b'R'),
    unknown_memo=Piece(b'h\x07'),
    unknown_opcode=Piece(b'\x92'),
)


@pytest.fixture(scope='module')
def refusals(tmp_path_factory) -> dict:
    """What mmengine says of each hostile file, in a process of its own: some would crash it."""
    folder = tmp_path_factory.mktemp('hostile')
    for name, piece in {**HOSTILE, 'good': ARRAY, 'good_number': NAMES.scalar(F8, b'x' * 8)}.items():
        with zipfile.ZipFile(folder / f'{name}.pth', 'w') as archive:
            archive.writestr('archive/data.pkl', b'\x80\x02' + raw({'state_dict': {}, 'extra': piece}) + b'.')
            archive.writestr('archive/version', '3')
    said = run(
        """
        import json, pathlib, warnings, mmtoken, torch
        from mmengine.runner.checkpoint import CheckpointLoader
        said = {}
        for path in sorted(pathlib.Path('.').glob('*.pth')):
            try:
                extra = CheckpointLoader.load_checkpoint(str(path), 'cpu', logger='silent')['extra']
                said[path.stem] = 'read: ' + repr(extra)
            except Exception as error:
                said[path.stem] = type(error).__name__ + ': ' + str(error)
            try:
                torch.load(path)
            except Exception:
                continue
            assert 'good' in path.stem, path.stem
        print(json.dumps(said))
        """,
        folder,
    )
    return json.loads(said.splitlines()[-1])


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_pickles_end_in_one_line(refusals, name):
    assert refusals[name].startswith('UnpicklingError: ') and f'{name}.pth was not loaded' in refusals[name]
    assert '\n' not in refusals[name]


def test_the_same_pieces_make_good_files(refusals):
    assert refusals['good'].startswith('read: Array(') or refusals['good'].startswith('read: array(')
    assert refusals['good_number'].startswith('read: np.float64(')


def test_arrays_are_saved_as_plain_ones():
    import mmengine.logging  # noqa: F401

    loaded = reread(np.arange(3))
    assert pickle.dumps(loaded, 2) == pickle.dumps(np.arange(3), 2)
    big = reread(np.arange(3, dtype='>i4'))
    assert big.tolist() == [0, 1, 2]


def test_history_is_that_of_mmengine_afterwards():
    from mmengine.logging import HistoryBuffer

    again = reread(HistoryBuffer([1.0, 2.0], [1, 1]))
    assert type(again) is HistoryBuffer and type(again.data[0]) is np.ndarray
    again.update(6.0)
    assert again.mean() == 3 and again.statistics('max') == 6
    assert torch.serialization.get_safe_globals().count(np.ndarray) == 0


def test_statistics_are_those_of_the_running_process(tmp_path):
    """A file that mentions a statistic is read where it is registered, and brings none of its own."""
    register = """
        import mmtoken, torch
        from mmengine.logging import HistoryBuffer

        def first(self):
            return self.data[0][0]
    """
    save = """
        HistoryBuffer.register_statistics(first)
        torch.save(HistoryBuffer([5.0, 2.0], [1, 1]), 'file.pth')
    """
    load = """
        import pickle
        try:
            torch.load('file.pth')
        except pickle.UnpicklingError as error:
            assert 'first' in str(error)
        else:
            raise AssertionError
        HistoryBuffer.register_statistics(first)
        loaded = torch.load('file.pth')
        assert loaded.statistics('first') == 5 and HistoryBuffer._statistics_methods['min'] is HistoryBuffer.min
    """
    run(textwrap.dedent(register) + textwrap.dedent(save), tmp_path)
    run(textwrap.dedent(register) + textwrap.dedent(load), tmp_path)
