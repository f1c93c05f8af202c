"""Files that the tools write."""

import os
from pathlib import Path
from typing import Any

from .errors import UserError


def check_output(flag: str, path: Any):
    """Make the folder of a file that will be written, or fail, before any work.

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
