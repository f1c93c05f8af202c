"""Where the weights that a training starts with come from: a checkpoint, or a random generator."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from mmtoken.core import TokenHost

from .errors import UserError


class Origins:
    """Notes which parameters of a model come out of checkpoints, whoever loads them; all others are random.

    Copies that a module makes of others while it loads count, as those of ``mmtoken.SAT`` do.

    Args:
        model (nn.Module): Watched from now on.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.loaded: set[str] = set()
        for name, module in model.named_modules():
            hook = partial(_note, loaded=self.loaded, name=f'{name}.' if name else '')
            module._register_load_state_dict_pre_hook(hook, with_module=True)

    @property
    def random(self) -> list[str]:
        """Names of the parameters that no checkpoint held so far."""
        return [name for name, _ in self.model.named_parameters() if name not in self.loaded]

    def check_frozen(self) -> None:
        """Fails if parts that stay as they are would stay random: a head would learn on noise, or a method choose so.

        Raises:
            UserError: In one line that names the first parameter and what to set.
        """
        frozen = [name for name in frozen_names(self.model) if name not in self.loaded]
        if frozen:
            more = f' and {len(frozen) - 1} more' if len(frozen) > 1 else ''
            raise UserError(
                f'model.{frozen[0]}{more}: frozen, and in no checkpoint that is loaded, so it would stay random; set '
                'load_from, or backbone.init_cfg with its prefix, to a checkpoint that holds it, or train it'
            )

    def describe(self) -> str:
        """Returns the parts that start at random, such as ``decode_head (2), backbone.reducer (8 of 12)``."""
        names: dict[str, list[bool]] = {}
        for name, _ in self.model.named_parameters():
            first, _, rest = name.partition('.')
            part = f'{first}.reducer' if rest.startswith('reducer.') else first
            names.setdefault(part, []).append(name not in self.loaded)
        counts = {part: (sum(some), len(some)) for part, some in names.items() if any(some)}
        return ', '.join(f'{part} ({n}{f" of {all_}" if n < all_ else ""})' for part, (n, all_) in counts.items())


def _note(module: nn.Module, state: dict, prefix: str, *_: Any, loaded: set[str], name: str) -> None:
    """Notes the parameters of a module's own that it is about to load; a load state dict pre-hook."""
    for key, value in module._parameters.items():
        held = state.get(prefix + key)
        if value is not None and held is not None and held.shape == value.shape:
            loaded.add(name + key)


def frozen_names(model: nn.Module) -> Iterator[str]:
    """Parameters of backbones that :meth:`TokenHost.freeze` keeps as they are, and of reducers that are frozen."""
    for prefix, host in model.named_modules():
        if not isinstance(host, TokenHost):
            continue
        for name, parameter in host.named_parameters():
            if not parameter.requires_grad and (name.startswith('reducer.') or host.is_frozen(name)):
                yield f'{prefix}.{name}' if prefix else name
