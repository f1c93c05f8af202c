"""Checks what this machine has: devices, mixed precision, packages."""

import importlib.util

import torch
import torch.distributed
from mmengine.config import Config

from .errors import UserError


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


def check_amp(cfg: Config):
    """Fail if training asks for a mixed precision that mmengine does not have on this machine."""
    if not torch.cuda.is_available() and (cfg.get('optim_wrapper') or {}).get('type') == 'AmpOptimWrapper':
        raise UserError(
            'optim_wrapper.type=AmpOptimWrapper (--amp) needs a GPU: mmengine has no mixed precision on the CPU; '
            'optim_wrapper.type=mmtoken.BF16OptimWrapper trains in bfloat16 there'
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


def check_installed(*packages: str, extra: str = 'analysis'):
    """Fails if a package that only some tools need is not there.

    Args:
        *packages: Their names.
        extra: The extra of mmtoken that brings them; empty if none does.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        ways = [f"pip install 'mmtoken[{extra}]'"] * bool(extra) + [f'pip install {" ".join(missing)}']
        raise UserError(f'{" and ".join(missing)} not installed: {", or ".join(ways)}')
