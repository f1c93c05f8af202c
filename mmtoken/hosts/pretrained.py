"""Checkpoints of backbones: the form of ``init_cfg``, and strict loading."""

from collections.abc import Callable, Sequence
from typing import Any

from mmengine.runner import CheckpointLoader
from torch import nn


def check_init_cfg(cfg: dict | Sequence[dict] | None) -> None:
    """Checks the form of an initialisation config.

    Raises:
        ValueError: For another type, or a checkpoint that is not named.
    """
    key = 'backbone.init_cfg'
    cfgs: list[Any] = list(cfg) if isinstance(cfg, (list, tuple)) else [cfg]
    if cfg is not None and not all(isinstance(one, dict) for one in cfgs):
        raise ValueError(f"{key}={cfg!r} must be a dict, such as dict(type='Pretrained', checkpoint='….pth').")
    for one in cfgs:
        if cfg is not None and one.get('type') == 'Pretrained' and not isinstance(one.get('checkpoint'), str):
            raise ValueError(f'{key}.checkpoint={one.get("checkpoint")!r} must be the name of a file, or an address.')


def load_strictly(
    module: nn.Module,
    path: str,
    prefix: str = '',
    spare: Sequence[str] = (),
    remedy: str = 'set its arguments',
    adapt: Callable[[dict], None] | None = None,
) -> None:
    """Loads a checkpoint strictly, since a partial load would leave frozen weights random, unnoticed.

    Args:
        module (nn.Module): A backbone; parameters under ``reducer.`` may lack.
        path (str): File or address.
        prefix (str): Take the parameters under this name, such as ``backbone.``.
        spare (Sequence[str]): Beginnings of names that may be left over, such as a classifier's.
        remedy (str): What to set if it was made for another architecture.
        adapt (Callable, optional): Changes the parameters by name, in place, before they are compared.

    Raises:
        ValueError: If it was made for another architecture.
    """
    state = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    state = state.get('state_dict', state)
    state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    state = {k: v for k, v in state.items() if not k.startswith(tuple(spare))}
    if adapt is not None:
        adapt(state)
    own = {k: v for k, v in module.state_dict().items() if not k.startswith('reducer.')}
    wrong = [f'{k} is missing' for k in own if k not in state]
    wrong += [f'{k} is unknown' for k in state if k not in own and not k.startswith('reducer.')]
    wrong += [
        f'{k} is {tuple(state[k].shape)}, not {tuple(v.shape)}'
        for k, v in own.items()
        if k in state and state[k].shape != v.shape
    ]
    if wrong:
        raise ValueError(
            f'backbone.init_cfg.checkpoint={path} was made for another architecture ({wrong[0]}); {remedy} as it was '
            'made.'
        )
    module.load_state_dict(state, strict=False)
