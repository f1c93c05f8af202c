"""Reads and writes files of the tools: never half of one, and never unseen."""

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import UserError


def check_output(flag: str, path: Any):
    """Makes the folder of a file that will be written, or fails, before any work.

    Args:
        flag: What the path was given by.
        path: The file; None if none is wanted.
    """
    if path is None:
        return
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'{flag} {path}: cannot make the folder ({error.strerror}); name another file') from error
    if Path(path).is_dir():
        raise UserError(f'{flag} {path}: this is a folder; name a file in it')
    if not os.access(Path(path) if Path(path).exists() else Path(path).parent, os.W_OK):
        raise UserError(f'{flag} {path}: no permission to write there; name another file')


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives the name of a file beside ``path`` to write to, and puts it in the place of ``path`` at the end.

    A reader sees the old file or the new one, whenever the writer is killed, and two writers do not mix. What a killed
    writer leaves is hidden and ends in ``.part``. A device or a pipe, such as ``/dev/stdout``, is written to as it is.

    Raises:
        UserError: If the file cannot be written, as on a full disk.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        try:
            yield Path(path)
        except OSError as error:
            raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error
        return
    path = Path(os.path.realpath(path))  # a link stays one
    part = path.with_name(f'.{path.name}.{secrets.token_hex(4)}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error
    finally:
        with suppress(OSError):  # it has its name by now, or never was
            part.unlink()


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file whole or not at all; raises :class:`UserError` if it cannot."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file whole or not at all; raises :class:`UserError` if it cannot."""
    write_bytes(path, text.encode())


def write_image(path: str | Path, image: Any, params: Sequence[int] = ()) -> None:
    """Writes a picture whole or not at all, where ``cv2.imwrite`` would only return False.

    Args:
        path: Its suffix says the format.
        image: ``(H, W)`` or ``(H, W, 3)``, BGR, uint8.
        params: As for ``cv2.imwrite``.

    Raises:
        UserError: If the picture cannot be written, or OpenCV does not know the format.
    """
    import cv2

    try:
        done, data = cv2.imencode(Path(path).suffix, image, list(params))
    except cv2.error as error:
        raise UserError(f'{path}: OpenCV cannot write this format; name a .png or .jpg file') from error
    if not done:
        raise UserError(f'{path}: OpenCV cannot write this picture')
    write_bytes(path, data.tobytes())


def read_json(path: str | Path, default: Any = None) -> Any:
    """Returns what a JSON file holds, or ``default`` if there is none.

    Raises:
        UserError: If the file is cut, is no JSON, or holds something of another type than ``default``.
    """
    if not Path(path).exists():
        return default
    try:
        found = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f'{path}: cannot be read as JSON ({error}); mend or remove it') from error
    if default is not None and not isinstance(found, type(default)):
        raise UserError(f'{path}: holds a {type(found).__name__}, and not what was written here; mend or remove it')
    return found


def read_rows(path: str | Path, *keys: str) -> list[dict]:
    """Returns the ``rows`` of a JSON file, an empty list if there is none.

    Raises:
        UserError: As :func:`read_json`, or if it has no rows, or one lacks a key.
    """
    rows = read_json(path, {'rows': []}).get('rows')
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= set(keys) for row in rows):
        wanted = f' with {" and ".join(keys)}' if keys else ''
        raise UserError(f'{path}: holds no rows{wanted}; give a file that the tool for it wrote')
    return rows


def write_json(path: str | Path, data: Any) -> None:
    """Writes a JSON file whole or not at all; raises :class:`UserError` if it cannot."""
    write_text(path, json.dumps(data, indent=1) + '\n')


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Lets one process at a time read, change and write a file; the lock is a hidden file beside it."""
    lock = Path(path).with_name(f'.{Path(path).name}.lock')
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, 'w') as file:
        try:
            import fcntl
        except ImportError:  # Windows: files are still written whole
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
