"""Files of the tools are written whole or not at all, and read with one line where they are cut."""

import multiprocessing
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from mmtoken.engine.errors import UserError
from mmtoken.engine.files import locked, read_json, replacing, write_image, write_text


def test_a_file_is_replaced_at_the_end(tmp_path):
    path = tmp_path / 'new' / 'a.txt'
    write_text(path, 'old')
    with replacing(path) as part:
        part.write_text('new')
        assert path.read_text() == 'old' and part.parent == path.parent
    assert path.read_text() == 'new' and list(path.parent.iterdir()) == [path]
    with pytest.raises(ZeroDivisionError), replacing(path) as part:
        part.write_text('half')
        1 / 0  # noqa: B018
    assert path.read_text() == 'new' and list(path.parent.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    write_text(tmp_path / 'a.txt', 'old')
    code = """
        import os, signal
        from mmtoken.engine.files import replacing
        with replacing('a.txt') as part:
            part.write_text('half')
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, '-W', 'ignore', '-c', textwrap.dedent(code)], cwd=tmp_path)
    assert (tmp_path / 'a.txt').read_text() == 'old'
    assert [path.suffix for path in tmp_path.glob('.*')] == ['.part']


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / 'file').write_text('')
    for write in (lambda path: write_text(path, 'a'), lambda path: write_image(path, np.zeros((2, 2), np.uint8))):
        with pytest.raises(UserError, match='a.png: cannot be written') as error:
            write(tmp_path / 'file' / 'a.png')
        assert '\n' not in str(error.value)
    for name in ('a', 'a.nope'):
        with pytest.raises(UserError, match=f'{name}: OpenCV cannot write this'):
            write_image(tmp_path / name, np.zeros((2, 2), np.uint8))
    with pytest.raises(UserError, match='a.png: OpenCV cannot write this'):
        write_image(tmp_path / 'a.png', np.zeros((0, 2), np.uint8))


def test_a_device_or_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, 'through')
    assert os.read(reader, 99) == b'through' and pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]
    os.close(reader)


def test_json_that_is_cut(tmp_path):
    path = tmp_path / 'a.json'
    assert read_json(path) is None and read_json(path, []) == []
    for text in ('{"a": ', '', 'x'):
        path.write_text(text)
        with pytest.raises(UserError, match='a.json: cannot be read as JSON'):
            read_json(path)
    path.write_text('{"a": 1}')
    assert read_json(path) == {'a': 1}


def add_one(path):
    for _ in range(20):
        with locked(path):
            write_text(path, str(int(path.read_text()) + 1))


def test_two_writers_lose_nothing(tmp_path):
    pytest.importorskip('fcntl')
    path = tmp_path / 'count'
    write_text(path, '0')
    fork = multiprocessing.get_context('fork')
    others = [fork.Process(target=add_one, args=(path,)) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert path.read_text() == '40'
