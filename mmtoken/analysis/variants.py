"""Other settings of a config: of its reducer's arguments, without a reducer, on smaller pictures."""

import ast
import copy
import inspect
import re
from collections.abc import Iterable
from typing import Any

from mmengine.config import Config, ConfigDict

from mmtoken.core import HostInfo, build_reducer, method_of
from mmtoken.engine.errors import UserError
from mmtoken.models.segmentors import hand_over

from .rivals import smaller_size


def check_reducer(cfg: Config, path: str) -> None:
    """Fail if the model of a config has no reducer."""
    if not (cfg.model.get('backbone') or {}).get('reducer'):
        raise UserError(
            f'{path}: model.backbone.reducer is missing, so there is nothing to look at; add reducer=dict('
            "type='mmtoken.ToMe', …) or name a config of an accelerated model"
        )


def without(options: dict | None, prefix: str) -> dict:
    """Of the ``--cfg-options`` those whose keys do not start like that."""
    return {key: value for key, value in (options or {}).items() if not key.startswith(prefix)}


def dense_config(cfg: Config) -> Config:
    """The same model with all of its tokens; without the parts that only training needs, which may be exit heads."""
    dense = copy.deepcopy(cfg)
    dense.model.backbone.pop('reducer', None)
    for part in ('auxiliary_head', 'teacher'):
        dense.model.pop(part, None)
    return dense


def with_settings(cfg: Config, settings: dict[str, Any]) -> Config:
    """A copy with other values under ``model.backbone``.

    Args:
        cfg (Config): Left as it is.
        settings (dict[str, Any]): Values by key, such as ``reducer.grid``; numbers in a key are places in a list.
    """
    cfg = copy.deepcopy(cfg)
    for key, value in settings.items():
        node, *path = cfg.model.backbone, *key.split('.')
        for step in path[:-1]:
            node = node[int(step) if isinstance(node, list) else step]
        node[int(path[-1]) if isinstance(node, list) else path[-1]] = value
    return cfg


def reducers_of(cfg: Config) -> dict[str, dict]:
    """The configs of the reducers by key: ``reducer``, or ``reducer.0``, ``reducer.1`` … of several."""
    reducer = cfg.model.backbone.reducer
    return {'reducer': reducer} if isinstance(reducer, dict) else {f'reducer.{i}': r for i, r in enumerate(reducer)}


def check_key(cfg: Config, flag: str, key: str) -> None:
    """Fail if a setting's key is no argument of the config's reducer; the line names those that there are."""
    reducers = reducers_of(cfg)
    name, _, argument = key.rpartition('.')
    if name not in reducers:
        raise UserError(f'{flag} {key}: settings of this config start with ' + ' or '.join(f'{r}.' for r in reducers))
    method = method_of(reducers[name])
    known = list(inspect.signature(method).parameters)
    if argument not in known:
        raise UserError(f'{flag} {key}: {method.__name__} has no argument {argument}, but {", ".join(known)}')


def check_settings(cfg: Config, host: HostInfo) -> None:
    """Raises what the method of a config says to its arguments on a host."""
    backbone, _ = hand_over(cfg.model.backbone, cfg.model.get('auxiliary_head'))
    build_reducer(backbone['reducer']).bind(host)


def by_key(cfg: Config, flag: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """What a flag gives for each key.

    Raises:
        UserError: If a key is given twice, or is none of the config's, see :func:`check_key`.
    """
    values: dict[str, Any] = {}
    for key, value in pairs:
        check_key(cfg, flag, key)
        if key in values:
            raise UserError(f'{flag} {key} is given twice; write all of its values as one {key}=A,B,…')
        values[key] = value
    return values


def parse_values(flag: str, text: str) -> tuple[str, list]:
    """``reducer.grid=0.5,(24, 32)`` as the key and its values, in Python's notation; what is none is text.

    Raises:
        UserError: If there is no ``=`` or no value.
    """
    key, equals, values = text.partition('=')
    if not key or not equals or not values.strip(', '):
        raise UserError(f'{flag} {text}: write it as KEY=VALUE,VALUE, such as reducer.grid=0.5,0.7')
    try:
        return key, list(ast.literal_eval(f'[{values}]'))
    except (SyntaxError, ValueError):
        return key, [value.strip() for value in values.split(',') if value.strip()]


def parse_space(flag: str, text: str) -> tuple[str, Any]:
    """``KEY=LOW:HIGH`` or ``KEY=a,b,c`` as the key and its values, see :meth:`Reducer.search_space`."""
    low, colon, high = text.partition('=')[2].partition(':')
    if not colon:
        return parse_values(flag, text)
    try:
        ends = ast.literal_eval(low), ast.literal_eval(high)
        if any(type(end) not in (int, float) for end in ends) or not ends[0] < ends[1]:
            raise ValueError
    except (SyntaxError, ValueError):
        raise UserError(f'{flag} {text}: a range is LOW:HIGH, two numbers, the smaller one first') from None
    whole = all(type(end) is int for end in ends)
    return text.partition('=')[0], ends if whole else tuple(map(float, ends))


def parse_competitor(flag: str, text: str) -> tuple[str, str, str]:
    """Splits ``CONFIG:CHECKPOINT`` or ``CONFIG:CHECKPOINT:LABEL`` into three parts, the last maybe empty.

    The config of a package has a ``::`` of its own.
    """
    path, checkpoint, label, *_ = [*re.split('(?<!:):(?!:)', text, maxsplit=2), '', '']
    if not checkpoint:
        raise UserError(f'{flag} {text}: write it as CONFIG:CHECKPOINT or CONFIG:CHECKPOINT:LABEL')
    return path, checkpoint, label


def smaller_input(cfg: Config, factor: float, patch: int) -> Config:
    """The config with validation pictures of ``factor`` times the size, in whole patches where it names the size.

    Raises:
        UserError: If the factor makes nothing smaller.
    """
    if not 0 < factor < 1:
        raise UserError(f'--smaller-input {factor:g}: give a part of the size, between 0 and 1')
    cfg = copy.deepcopy(cfg)
    dataset = cfg.val_dataloader.dataset
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    pipeline = dataset.get('pipeline') or []
    if 'input_size' in cfg.model:
        return _smaller_people(cfg, pipeline, factor, patch)
    resizes = [step for step in pipeline if 'Resize' in str(step.type) and {'scale', 'scale_factor'} & set(step)]
    if not resizes:
        resizes = [ConfigDict(type='Resize', scale_factor=1.0, keep_ratio=True)]
        place = 1 + next((i for i, step in enumerate(pipeline) if 'Load' in str(step.type)), -1)
        pipeline.insert(place, resizes[0])
    for step in resizes:
        if step.get('scale'):
            sides = step.scale if isinstance(step.scale, (list, tuple)) else (step.scale,) * 2
            step.scale = smaller_size(sides, factor, patch)
        else:
            sides = step.scale_factor
            step.scale_factor = tuple(s * factor for s in sides) if isinstance(sides, (list, tuple)) else sides * factor
    test_cfg = cfg.model.get('test_cfg') or {}
    for key in ('crop_size', 'stride'):
        if key in test_cfg:
            test_cfg[key] = smaller_size(test_cfg[key], factor, patch)
    return cfg


def _smaller_people(cfg: Config, pipeline: list, factor: float, patch: int) -> Config:
    """As :func:`smaller_input`, for a human mesh model: the camera shrinks with the picture, whose side it knows."""
    whole = (cfg.model.get('data_preprocessor') or {}).get('pad_size_divisor') or patch
    (side,) = smaller_size([cfg.model.input_size], factor, whole)
    cfg.model.input_size = side
    resizes = [step for step in pipeline if str(step.type).endswith('ResizePeople')]
    if not resizes:
        resizes = [ConfigDict(type='mmtoken.ResizePeople', side=side)]
        place = 1 + next((i for i, step in enumerate(pipeline) if 'Load' in str(step.type)), -1)
        pipeline.insert(place, resizes[0])
    for step in resizes:
        step.side = side
    return cfg
