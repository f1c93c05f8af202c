"""Toy hosts, shared by the tests and the documentation: four blocks of width 32, patches of 4 pixels."""

import importlib.util
from collections.abc import Callable

from torch import nn

#: Side of a toy patch in pixels, and the grid that position tables are made for.
PATCH, SIDE = 4, 8
DEPTH = 4


def toy_hosts() -> dict[str, Callable[..., nn.Module]]:
    """Returns factories of toy backbones by host name: every registered host, made by its ``toy()``.

    Each takes the host's own keywords, such as ``reducer`` and ``out_indices``, and ``size=(height, width)`` in pixels
    for hosts whose position tables are made for one size. ``out_indices`` are blocks, also of a host that counts stages
    there. Hosts whose upstream package is not installed are left out.
    """
    from mmtoken import hosts  # noqa: F401  registers them
    from mmtoken.core import TokenHost
    from mmtoken.registry import MODELS

    def factory(host: type) -> Callable[..., nn.Module]:
        def build(size=(PATCH * SIDE, PATCH * SIDE), **kwargs) -> nn.Module:
            taps = kwargs.pop('out_indices', None) if host.counts_stages else None
            made = host(**{**host.toy(size), **kwargs})
            made.taps = made.taps if taps is None else taps
            randomize(made)
            return made.eval()

        return build

    found = {name: host for name, host in MODELS.module_dict.items() if issubclass_of(host, TokenHost)}
    found = {name: host for name, host in found.items() if not host.needs or importlib.util.find_spec(host.needs)}
    return {name: factory(host) for name, host in sorted(found.items())}


def issubclass_of(value, kind: type) -> bool:
    """Whether a value is a class that derives from another; registries hold functions too."""
    return isinstance(value, type) and issubclass(value, kind)


def randomize(module: nn.Module, std: float = 0.2) -> None:
    """Gives every parameter a value that matters; fresh ViTs have zero tokens, biases and position tables."""
    for name, parameter in module.named_parameters():
        if 'norm' in name or '.ln' in name:
            continue
        nn.init.normal_(parameter, std=std if parameter.dim() != 1 else 0.05)
