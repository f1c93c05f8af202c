"""Digests of what decides a result that is kept: settings, weights, code, pictures and labels."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor, nn

from .errors import PACKAGE, UserError, user_errors


def raw_bytes(tensor: Tensor) -> bytes:
    """The numbers of a tensor of any type."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


#: What each module has, and what says nothing of its output.
_PLUMBING = {*vars(nn.Module()), 'init_cfg', '_is_init'}


def describe(thing: Any, seen: set[int]) -> Any:
    """Plain data that are equal for things that act alike, in every process: settings, not addresses.

    Args:
        thing: Settings, modules or whatever they hold.
        seen: Ids of the objects that are being described.
    """
    if thing is None or isinstance(thing, (bool, int, float, complex, str, bytes, torch.dtype, torch.device)):
        return repr(thing)
    if isinstance(thing, Tensor):
        return [tuple(thing.shape), str(thing.dtype), hashlib.blake2b(raw_bytes(thing)).hexdigest()]
    if isinstance(thing, np.ndarray):
        return [thing.shape, str(thing.dtype), hashlib.blake2b(thing.tobytes()).hexdigest()]
    if isinstance(thing, (set, frozenset)):
        return sorted(repr(describe(item, seen)) for item in thing)
    name = getattr(thing, '__qualname__', type(thing).__qualname__)
    if id(thing) in seen:
        return name
    seen = seen | {id(thing)}
    if isinstance(thing, dict):
        return sorted((str(key), describe(value, seen)) for key, value in thing.items() if key != 'init_cfg')
    if isinstance(thing, (list, tuple)):
        return [describe(item, seen) for item in thing]
    if isinstance(thing, partial):
        return [describe(part, seen) for part in (thing.func, thing.args, thing.keywords)]
    if isinstance(thing, nn.Module):
        own = {key: value for key, value in vars(thing).items() if key not in _PLUMBING}
        return [name, describe(own, seen), describe(thing._modules, seen)]
    if isinstance(thing, type) or callable(thing) or not hasattr(thing, '__dict__'):
        return name
    return [name, describe(vars(thing), seen)]


def file_digest(path: str | Path) -> str:
    """Digest of a file's bytes; read once, and again when its size or time has changed."""
    about = os.stat(path)
    return _file_digest(os.path.realpath(path), about.st_size, about.st_mtime_ns, about.st_ino)


@cache
def _file_digest(path: str, *about: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, 'rb') as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


@cache
def code_digest() -> str:
    """Digest of mmtoken's own code."""
    return joint(map(file_digest, sorted(Path(PACKAGE).rglob('*.py'))))


def data_digest(cfg: Config, split: str) -> str:
    """Digest of the bytes of all that scoring reads: pictures, labels and files of annotations.

    Args:
        cfg: The whole config.
        split: ``val`` or ``test``.

    Raises:
        UserError: If the dataset cannot be built.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    loader, evaluator = cfg.get(f'{split}_dataloader'), cfg.get(f'{split}_evaluator')
    if not loader:
        raise UserError(f'the config has no {split}_dataloader, which scoring needs')
    with user_errors(f'{split}_dataloader.dataset cannot be built'):
        dataset = DATASETS.build(loader['dataset'])
    # As a list of annotations has it: what a dataset draws or computes for a picture lies in no file.
    read = BaseDataset.get_data_info if isinstance(dataset, BaseDataset) else type(dataset).get_data_info
    infos = [read(dataset, i) for i in range(len(dataset))]
    named = [value for info in infos for value in info.values()]
    named += _texts([loader, evaluator], [''])
    return joint(file_digest(name) for name in dict.fromkeys(filter(_is_file, named)))


def joint(parts: Iterable[Any]) -> str:
    """One digest of several, or of other plain data, in their order."""
    text = json.dumps(list(parts), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _is_file(name: Any) -> bool:
    return isinstance(name, str) and bool(name) and os.path.isfile(name)


def _texts(cfg: Any, roots: list[str]) -> Iterator[str]:
    """Every text in a config as it is and as a path under the ``data_root`` around it."""
    if isinstance(cfg, str):
        yield from (os.path.join(root, cfg) for root in roots)
    elif isinstance(cfg, dict):
        roots = [*roots, cfg['data_root']] if isinstance(cfg.get('data_root'), str) else roots
        cfg = list(cfg.values())
    if isinstance(cfg, (list, tuple)):
        for item in cfg:
            yield from _texts(item, roots)
