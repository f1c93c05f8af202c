"""Builds what a config describes and tries the model before any work starts."""

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, OPTIMIZERS, RUNNERS
from mmengine.runner import Runner
from mmengine.utils import to_2tuple
from torch.distributed.fsdp import FullyShardedDataParallel

from mmtoken.core import TokenHost

from .errors import UserError, nearest_type, user_errors


def check_host(cfg: Config):
    """Fail if a reducer was given to a backbone that takes none; the line names the type that does."""
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
    """Builds the runner, and with it the model.

    Raises:
        UserError: If the config describes none.
    """
    check_host(cfg)
    with user_errors('the config cannot be built'):
        return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def build_training(runner: Runner):
    """Builds what training needs beside the model, data and optimizer, which mmengine does when training starts.

    Raises:
        UserError: If the config describes none.
    """
    if not isinstance(runner, Runner):  # FlexibleRunner leaves the work to its strategy
        return
    kind = (runner.cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    kind = kind.get('type')
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:  # at which mmengine says something else
        raise UserError(f'optim_wrapper.optimizer.type={kind} is not known{nearest_type(OPTIMIZERS, kind)}')
    with user_errors('the config cannot be built'):
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        if runner._val_loop is not None:
            runner._val_loop = runner.build_val_loop(runner._val_loop)


def build_testing(runner: Runner):
    """Builds the test data; raises :class:`UserError` if the config describes none."""
    with user_errors('the config cannot be built'):
        runner._test_loop = runner.build_test_loop(runner._test_loop)


def deploy(model: torch.nn.Module) -> None:
    """Lets every backbone drop what only training needs, see :meth:`TokenHost.switch_to_deploy`."""
    for module in unwrap(model).modules():
        if isinstance(module, TokenHost):
            module.switch_to_deploy()


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
