"""Builds what a config describes and tries the model before any work starts."""

import copy
import random

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseTTAModel
from mmengine.optim import OptimWrapper, ReduceOnPlateauParamScheduler
from mmengine.registry import MODELS, OPTIMIZERS, RUNNERS
from mmengine.runner import BaseLoop, Runner
from mmengine.utils import to_2tuple
from torch.distributed.fsdp import FullyShardedDataParallel

from mmtoken.core import Reducer, TokenHost

from .errors import UserError, nearest_type, user_errors

#: Of mmseg's IoUMetric, which looks at them after the last picture.
IOU_METRICS = ('mIoU', 'mDice', 'mFscore')


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
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if isinstance(runner, Runner):
        check_heads(runner.model)
        check_losses(runner.model)
    return runner


def check_losses(model: torch.nn.Module) -> None:
    """Fails if a loss has a weight that is no number, or weights of another number of classes than its head."""
    for name, module in unwrap(model).named_modules():
        if isinstance(weight := getattr(module, 'loss_weight', None), str):
            raise UserError(f'model.{name}: loss_weight={weight!r} must be a number')
        losses = getattr(module, 'loss_decode', None)
        classes = getattr(module, 'out_channels', 1)
        for loss in losses if isinstance(losses, torch.nn.ModuleList) else [losses]:
            weights = getattr(loss, 'class_weight', None)
            if isinstance(weights, (list, tuple)) and classes > 1 and len(weights) != classes:
                raise UserError(
                    f'model.{name}.loss_decode: class_weight has {len(weights)} entries, and the head {classes} classes'
                )


def check_heads(model: torch.nn.Module) -> None:
    """Fails if a head reads an output that the backbone does not give, at which it would fail in the first pass."""
    model = unwrap(model)
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, TokenHost) or getattr(model, 'neck', None) is not None:
        return
    number = len(backbone.out_indices) + backbone.out_origin
    for name, head in model.named_modules():
        indices = getattr(head, 'in_index', None)
        for index in indices if isinstance(indices, (list, tuple)) else [indices]:
            if isinstance(index, int) and not -number <= index < number:
                raise UserError(
                    f'model.{name}.in_index={indices} reads output {index}, and the backbone gives {number} '
                    '(out_indices); the first is 0'
                )


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
    check_schedulers(runner)
    check_loop(runner._train_loop, 'train_dataloader')
    if runner._val_loop is not None:
        build_validation(runner)


def check_schedulers(runner: Runner) -> None:
    """Fails if a schedule cannot be made or cannot take a step, which is tried on a parameter of no model."""
    plans = runner.param_schedulers or []
    if isinstance(plans, dict) and 'type' not in plans:  # one list for each of several optimizers
        plans = [plan for part in plans.values() for plan in (part if isinstance(part, list) else [part])]
    for i, plan in enumerate(plans if isinstance(plans, list) else [plans]):
        if not isinstance(plan, dict):
            continue
        alone = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
        with user_errors(f'param_scheduler[{i}]'):
            for schedule in runner._build_param_scheduler(copy.deepcopy(plan), OptimWrapper(alone)):
                if not isinstance(schedule, ReduceOnPlateauParamScheduler):
                    schedule.step()


def build_validation(runner: Runner):
    """Builds the validation data; raises :class:`UserError` if the config describes none."""
    with user_errors('the config cannot be built'):
        runner._val_loop = runner.build_val_loop(runner._val_loop)
    check_loop(runner._val_loop, 'val_dataloader', runner.model)


def build_testing(runner: Runner):
    """Builds the test data; raises :class:`UserError` if the config describes none."""
    with user_errors('the config cannot be built'):
        runner._test_loop = runner.build_test_loop(runner._test_loop)
    check_loop(runner._test_loop, 'test_dataloader', runner.model)


def check_loop(loop: BaseLoop, key: str, model: torch.nn.Module | None = None) -> None:
    """Fails if the first item of a loop's data cannot be made, or its evaluator would refuse the metrics at the end.

    No random number is used up: training goes on as if nothing had been looked at.

    Args:
        loop (BaseLoop): The built loop.
        key (str): Of its loader in the config.
        model (nn.Module, optional): Of validation and test, possibly wrapped: its data preprocessor is to take the
            first batch, and mmseg's takes no pictures of several sizes. By default only the first item is made.
    """
    for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):
        wanted = getattr(metric, 'metrics', None)
        if type(metric).__name__ == 'IoUMetric' and (odd := [m for m in wanted if m not in IOU_METRICS]):
            raise UserError(f'{key}: IoUMetric does not know iou_metrics={odd[0]!r}; it has {", ".join(IOU_METRICS)}')
    dataset = getattr(loop.dataloader, 'dataset', None)
    if not isinstance(dataset, torch.utils.data.Dataset) or not len(dataset):
        return
    prepare = None if isinstance(model, BaseTTAModel) else getattr(unwrap(model), 'data_preprocessor', None)
    number = min(loop.dataloader.batch_size or 1, len(dataset)) if prepare else 1
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        items = []
        for i in range(number):
            with user_errors(f'{key}.dataset: item {i}'):
                items.append(dataset[i])
        if number > 1:
            with user_errors(f'{key}: the first batch'):
                prepare(loop.dataloader.collate_fn(items), False)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def deploy(model: torch.nn.Module) -> None:
    """Lets every backbone drop what only training needs, see :meth:`TokenHost.switch_to_deploy`."""
    for module in unwrap(model).modules():
        if isinstance(module, TokenHost):
            module.switch_to_deploy()


def compile_backbones(model: torch.nn.Module, backend: str = 'inductor') -> None:
    """Compiles every backbone in place, a graph for each size of pictures; parameters keep their names.

    Args:
        model (nn.Module): The built model, possibly wrapped.
        backend (str): Backend of ``torch.compile``. Defaults to ``inductor``.

    Raises:
        UserError: If there is no backbone of ours, or its token count depends on the picture.
    """
    hosts = [module for module in unwrap(model).modules() if isinstance(module, TokenHost)]
    if not hosts:
        raise UserError('--compile: the model has no backbone of mmtoken')
    check_compilable(model)
    for host in hosts:
        host.compile(backend=backend, dynamic=False)


def check_compilable(model: torch.nn.Module) -> None:
    """Fails if the token count of a model, possibly wrapped, depends on the picture.

    Raises:
        UserError: In one line that names the method.
    """
    dynamic = [module for module in unwrap(model).modules() if isinstance(module, Reducer) and module.dynamic]
    if dynamic:  # the last is a method, and not the list that it is in
        raise UserError(
            f'--compile: the token count of reducer {type(dynamic[-1]).__name__} depends on the picture, and each '
            'count would be compiled anew; leave the flag out, or take a static method, such as mmtoken.ToMe'
        )


def unwrap(model: torch.nn.Module) -> torch.nn.Module:
    """The model itself, without DistributedDataParallel or test-time augmentation around it."""
    while hasattr(model, 'module'):
        model = model.module
    return model


def check_sharding(model: torch.nn.Module) -> None:
    """Fails if FSDP shards a backbone of ours, or parts of it, by themselves.

    It gathers the weights of a part when that part is called, and a host calls the halves of a block instead. Around a
    backbone it hides the reducer from the model, whose losses would be missing.

    Args:
        model (nn.Module): As it is trained, wrapped.

    Raises:
        UserError: In one line that names the first such part.
    """
    model = unwrap(model)
    ours = {id(part) for host in model.modules() if isinstance(host, TokenHost) for part in host.modules()}
    for name, module in model.named_modules():
        if isinstance(module, FullyShardedDataParallel) and any(id(part) in ours for part in module.modules()):
            raise UserError(
                f'FSDP shards model.{name} by itself, whose parts mmtoken calls one by one; shard the model as a whole '
                '(no auto_wrap_policy), or use MMDistributedDataParallel'
            )


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
