"""Registry of token reduction methods; torch only, so that it works without OpenMMLab."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from .reducer import Reducer


class ReducerRegistry:
    """Holds token reduction methods by name. Hosts build methods; mmseg and mmdet never do."""

    def __init__(self) -> None:
        self.module_dict: dict[str, type[Reducer]] = {}

    def register_module(self, name: str | None = None, force: bool = False) -> Callable[[type], type]:
        """Returns a decorator that registers a class.

        Args:
            name (str, optional): Name of the method; by default that of the class.
            force (bool): Replace a method of the same name. Defaults to False.

        Raises:
            KeyError: If the name is taken.
        """

        def register(method: type) -> type:
            if method.__module__.split('.')[0] != 'mmtoken':
                self.import_from_location()  # a taken name is refused here, and not when mmtoken's own come later
            key = name or method.__name__
            if key in self.module_dict and not force:
                raise KeyError(
                    f'{key} is taken by {self.module_dict[key].__module__}; choose another name, or replace it '
                    'for good by force=True.'
                )
            self.module_dict[key] = method
            return method

        return register

    def import_from_location(self) -> None:
        """Imports mmtoken's own methods, and so registers them."""
        importlib.import_module('mmtoken.methods')

    def get(self, name: str) -> type[Reducer]:
        """Returns the method of a name, with or without ``mmtoken.`` before it.

        Raises:
            ValueError: For an unknown name; lists the known ones.
        """
        self.import_from_location()
        method = self.module_dict.get(str(name).removeprefix('mmtoken.'))
        if method is None:
            known = ', '.join(f'mmtoken.{known}' for known in sorted(self.module_dict))
            raise ValueError(f"reducer.type='{name}' is not a token reduction method; choose one of {known}.")
        return method


REDUCERS = ReducerRegistry()


def method_of(cfg: dict) -> type[Reducer]:
    """Returns the method that a reducer's config names.

    Raises:
        ValueError: For an unknown name; lists the known ones.
    """
    name = cfg.get('type')
    return name if isinstance(name, type) else REDUCERS.get(str(name))


@overload
def build_reducer(cfg: dict | Sequence[dict] | Reducer) -> Reducer: ...


@overload
def build_reducer(cfg: None) -> None: ...


def build_reducer(cfg: dict | Sequence[dict] | Reducer | None) -> Reducer | None:
    """Builds the reducer of a config.

    Args:
        cfg (dict | Sequence[dict], optional): ``dict(type='mmtoken.Expedit', …)``, or several of them in order.

    Raises:
        ValueError: For an unknown method or a bad value.
        TypeError: For an argument that the method does not have; names the nearest one.
    """
    from .reducer import Reducer, ReducerSequence

    if cfg is None or isinstance(cfg, Reducer):
        return cfg
    if isinstance(cfg, (list, tuple)):
        return ReducerSequence([build_reducer(one) for one in cfg])
    if not isinstance(cfg, dict):
        raise ValueError(f"reducer={cfg!r} must be a dict, such as reducer=dict(type='mmtoken.ToMe', keep=0.3).")
    method = method_of(cfg)
    known = [p for p in inspect.signature(method.__init__).parameters if p != 'self']
    arguments = {key: value for key, value in cfg.items() if key != 'type'}
    for key in arguments:
        if key not in known:
            near = get_close_matches(key, known, 1, 0.7)
            hint = f'did you mean {near[0]}? ' if near else ''
            raise TypeError(f'reducer {cfg["type"]}: no argument {key!r}; {hint}It has {", ".join(known)}.')
    try:
        return method(**arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f'reducer {cfg["type"]}: {error}') from error
