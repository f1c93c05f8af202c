"""Hooks around the training loop."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from mmtoken.registry import HOOKS

from .checkpoints import check_finite, read_weights, without
from .configs import pretrained_of
from .errors import UserError
from .models import check_sharding, unwrap
from .origins import Origins


@HOOKS.register_module()
class IterSeedHook(Hook):
    """Seed torch before each training iteration from (seed, rank, iteration).

    mmengine's checkpoints hold no state of the random generators, so a resumed run draws other dropout masks than the
    uninterrupted one. With this hook an iteration's draws depend on nothing that came before it, and a resumed run
    ends in the same weights. The order of the data and its augmentations are replayed by mmengine itself when it
    resumes an iteration-based loop, of an epoch-based one the order alone; all need a fixed ``randomness.seed``,
    without one this hook does nothing.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Seed all of torch's generators; numpy's and Python's belong to the data pipeline and are left alone."""
        seed = runner.cfg.get('randomness', {}).get('seed')
        if seed is not None:
            words = np.random.SeedSequence([seed, get_rank(), runner.iter]).generate_state(1)
            torch.manual_seed(int(words[0]))


@HOOKS.register_module()
class GuardHook(Hook):
    """Ends a training in one line where mmengine would go on in silence; ``tools/train.py`` adds it.

    - Weights that are not finite are never saved: the older checkpoints stay.
    - First weights (``pretrained``, ``init_cfg``) of which almost nothing arrived in the model are refused, and weights
      of a teacher that do not fit.
    - Frozen parts of a backbone or a reducer that no checkpoint held are refused: they would stay random. The log names
      the parts that start at random and learn.
    - With ``train_cfg.only_reducer``, checkpoints name what was random and did not learn (``meta['untrained']``), and
      ``load_from`` leaves it out of them: such a decoder starts anew, by the code of the day.
    - A run that is resumed where a validation was due makes up for it: the kill may have hit it, and the checkpoint,
      which is written before, does not know its result.
    """

    priority = 'LOWEST'  # after the hooks that prepare training and validation

    #: Part of a module's parameters that must come out of its first weights. A few fit by name in any other ViT.
    least = 0.1

    #: Names of parameters that are random and do not learn.
    untrained: Sequence[str] = ()

    def before_run(self, runner) -> None:
        """Watches where the weights come from, unless the model is built later (FlexibleRunner) or in parts (FSDP)."""
        whole = isinstance(runner, Runner) and not isinstance(runner.model, FullyShardedDataParallel)
        self.origins = Origins(unwrap(runner.model)) if whole else None

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Leaves out what a checkpoint holds though it never learned; a run that is resumed keeps it."""
        untrained = checkpoint.get('meta', {}).get('untrained', ())
        if runner._resume:
            self.untrained = untrained
        elif untrained:
            runner.logger.info(f'load_from: {len(untrained)} parameters that never learned are left out of it')
            without(checkpoint['state_dict'], untrained)

    def before_train(self, runner) -> None:
        """Looks at the weights that training starts with, and at how they are shared out."""
        check_sharding(runner.model)
        model = unwrap(runner.model)
        if self.origins is not None:
            self.origins.check_frozen()
            if parts := self.origins.describe():
                runner.logger.info(f'Parameters that start at random: {parts}')
            if getattr(model, 'only_reducer', False) and not runner._resume:
                self.untrained = [name for name in self.origins.random if not name.startswith('backbone.')]
        check_finite(dict(model.named_parameters()), 'the model at the start', dict(model.named_parameters()))
        if runner._load_from is None and not runner._resume:
            self.check_first_weights(model, runner.cfg)
        teacher = getattr(model, 'teacher', None)
        if teacher is not None:
            teacher.prepare()
        loop = runner.train_loop
        done, goal = (
            (loop.epoch, loop.max_epochs) if isinstance(loop, EpochBasedTrainLoop) else (loop.iter, loop.max_iters)
        )
        if not runner._resume or runner.val_loop is None or not done:
            return
        loop._decide_current_val_interval()
        if done >= loop.val_begin and (done % loop.val_interval == 0 or done == goal):
            runner.logger.info('A validation was due where this run is resumed: it is made up for now.')
            runner.val_loop.run()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Refuses to save weights that are not finite, and names those that did not learn."""
        learned = {name for name, _ in unwrap(runner.model).named_parameters()}
        check_finite(checkpoint['state_dict'], f'the model after {runner.iter + 1} iterations', learned)
        if self.untrained:
            checkpoint['meta']['untrained'] = list(self.untrained)

    def check_first_weights(self, model: nn.Module, cfg: Any) -> None:
        """Counts the parameters that hold the values of their file: by value, since upstream's modules rename them."""
        for key, path in pretrained_of(cfg.model, 'model'):
            if not isinstance(path, str) or '.teacher' in key:
                continue
            name = re.sub(r'(\.init_cfg(\[\d+\])?)?\.(checkpoint|pretrained)$', '', key).removeprefix('model')
            name = re.sub(r'\[(\d+)\]', r'.\1', name).strip('.') or ('backbone' if key == 'model.pretrained' else '')
            try:
                module = model.get_submodule(name)
            except AttributeError:  # a wrapper of upstream's has it elsewhere
                module = model
            stored = {fingerprint(value) for value in read_weights(path).values()}
            learned = {fingerprint(value) for value in module.parameters()} - {None}
            if learned and len(learned & stored) < self.least * len(learned):
                raise UserError(
                    f'{key}: {len(learned & stored)} of {len(learned)} parameters come out of {path}, the others are '
                    'random: it is of another model or has other names; convert it (tools/model_converters/)'
                )


def fingerprint(value: Any) -> tuple | None:
    """Shape and first numbers of a tensor; None of one that is constant there, as many are before training."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return None
    numbers = value.detach().flatten()[:16].float().tolist()
    return (tuple(value.shape), tuple(numbers)) if len(set(numbers)) > 1 else None
