"""Reads checkpoints and checks that they fit the model."""

import copy
import os
import re
from collections import OrderedDict
from collections.abc import Container, Iterable
from itertools import zip_longest
from pathlib import Path

import torch
from mmengine.runner import CheckpointLoader, Runner

from .errors import UserError
from .models import unwrap


def check_checkpoint(model: torch.nn.Module, path: str, part: str = '', untrained: bool = False):
    """Loads a checkpoint, or fails if it was made for another architecture or holds values that are not finite.

    mmengine only warns about another architecture and goes on with random weights.

    A dense checkpoint serves an accelerated model whose reducer has no parameters, and one that is to be trained; exit
    heads at random would decide at random. Parts that only training needs, such as auxiliary heads, and reducers that
    are no longer there may be left over.

    Args:
        model: The built model, possibly wrapped.
        path: Checkpoint file or address, as ``load_from`` takes it.
        part: Load and look at parameters with this prefix only. Fine-tuning may change the head, but not the
            ``backbone.``; its reducer may start at random, see :class:`mmtoken.engine.origins.Origins`.
        untrained: See :func:`read_weights`.

    Raises:
        UserError: If it cannot be read or does not fit.
    """
    model = unwrap(model)
    if '://' not in path and not os.path.isfile(path):
        raise UserError(f'checkpoint not found: {path}')
    random = bool(part)
    state = read_weights(path, untrained)
    check_finite(state, f'checkpoint {path}', {name for name, _ in model.named_parameters()})
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


def check_finite(state: dict, owner: str, parameters: Container[str]):
    """Fails if weights are NaN, or parameters infinite; a buffer, such as a mask, may be.

    Args:
        state: Tensors by name.
        owner: What they are part of, for the message.
        parameters: Names of those that are learned.
    """
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            continue
        if value.isnan().any() or (name in parameters and value.isinf().any()):
            raise UserError(f'{owner} holds values of {name} that are not finite: its training diverged')


def latest_checkpoint(work_dir: str) -> str | None:
    """Returns the newest checkpoint of a work dir that can be read, None if there is none at all.

    That is what ``last_checkpoint`` names, as mmengine takes it; after a kill that hit a file, the newest one before.
    Prints a line for each file that is passed over.

    Raises:
        UserError: If there are checkpoints, and none can be read.
    """
    folder = Path(work_dir)
    for part in folder.glob('.*.part'):  # what a kill left of a file that was being written
        part.unlink(missing_ok=True)
    named = folder / 'last_checkpoint'
    named = named.read_text(errors='replace').strip().strip('\0') if named.is_file() else ''
    others = [path for path in folder.glob('*.pth') if re.fullmatch(r'(iter|epoch)_\d+', path.stem)]
    others.sort(key=lambda path: (path.stat().st_mtime_ns, int(path.stem.split('_')[1])), reverse=True)
    first = [Path(named)] if named else []
    paths = first + [path for path in others if path.resolve() not in [p.resolve() for p in first]]
    for path in paths:
        try:
            read_checkpoint(str(path))
        except UserError as error:
            print(f'--resume: {error}; looking for an older one')
            continue
        if path is not paths[0] or not named:
            print(f'--resume: going on from {path}')
        return str(path)
    if paths:
        raise UserError(f'--resume: no checkpoint in {work_dir} can be read; train anew, or name one: --resume FILE')
    return None


def check_resume(runner: Runner, path: str):
    """Fails if the optimizer's state in a checkpoint belongs to other parameters: it knows them by their place only.

    Args:
        runner: With its model and its optimizer built.
        path: The checkpoint to resume from.
    """
    checkpoint = read_checkpoint(path)
    if not {'optimizer', 'message_hub', 'meta'} <= set(checkpoint):
        raise UserError(f'checkpoint {path} holds weights alone and cannot be resumed; give it as load_from')
    if not isinstance(runner, Runner):  # FlexibleRunner builds the model when training starts
        return
    model = unwrap(runner.model)
    other = {name for name, _ in model.named_buffers()}  # states that are not optimized

    def learned(state: dict) -> list[str]:
        names = [name.removeprefix('module.') for name in state]
        return [name for name in names if name not in other and not name.endswith('_extra_state')]

    ours, theirs = learned(model.state_dict()), learned(checkpoint['state_dict'])
    remedy = 'its optimizer state would go to other parameters; start anew from it with load_from instead of --resume'
    if ours != theirs:
        pairs = zip_longest(ours, theirs, fillvalue='nothing')
        new, old = next((new, old) for new, old in pairs if new != old)
        raise UserError(f'checkpoint {path} is of another model (it has {old} where this one has {new}): {remedy}')
    groups = getattr(getattr(runner.optim_wrapper, 'optimizer', None), 'param_groups', None)
    saved = checkpoint['optimizer'].get('param_groups')
    if groups is None or saved is None:  # several optimizers
        return
    if [len(group['params']) for group in groups] != [len(group['params']) for group in saved]:
        raise UserError(
            f'checkpoint {path} was trained with other groups of parameters (frozen, or optim_wrapper.paramwise_cfg): '
            f'{remedy}'
        )


def read_checkpoint(path: str) -> dict:
    """Returns all that a checkpoint file holds; raises :class:`UserError` if it cannot be read."""
    try:
        state = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
        if not isinstance(state, dict):
            raise TypeError(f'it holds a {type(state).__name__}')
    except Exception as error:  # pickle, zip files, torch and the network have one each
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f'checkpoint {path} cannot be read ({reason}); give a file with the weights of a model, as '
            'training writes it'
        ) from error
    return state


def read_weights(path: str, untrained: bool = False) -> OrderedDict:
    """Returns parameters and buffers in a checkpoint file, or at an address, by name, with the versions of modules.

    Args:
        path: File or address.
        untrained: Keep what it holds though it never learned, see :class:`mmtoken.engine.GuardHook`.

    Raises:
        UserError: If it cannot be read, or holds none.
    """
    checkpoint = read_checkpoint(path)
    state = checkpoint.get('state_dict', checkpoint)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(
            f'checkpoint {path} cannot be read (it holds no parameters by name); give a file with the '
            'weights of a model, as training writes it'
        )
    named = OrderedDict((name.removeprefix('module.'), value) for name, value in state.items())
    if hasattr(state, '_metadata'):
        named._metadata = state._metadata
    meta = checkpoint.get('meta')
    if isinstance(meta, dict) and not untrained:
        without(named, meta.get('untrained', ()))
    return named


def without(state: dict, names: Iterable[str]) -> None:
    """Takes parameters out of a state dict, in place."""
    for name in names:
        state.pop(name, None)
