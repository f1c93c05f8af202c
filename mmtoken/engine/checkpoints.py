"""Reads checkpoints and checks that they fit the model."""

import copy
import os
from collections import OrderedDict

import torch
from mmengine.runner import CheckpointLoader

from mmtoken.core import Reducer

from .errors import UserError
from .models import unwrap


def check_checkpoint(model: torch.nn.Module, path: str, part: str = ''):
    """Load a checkpoint, or fail if it was made for another architecture; mmengine only warns and goes on with random
    weights.

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
