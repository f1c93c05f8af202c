"""Hooks around the training loop."""

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from mmtoken.registry import HOOKS


@HOOKS.register_module()
class IterSeedHook(Hook):
    """Seed torch before each training iteration from (seed, rank, iteration).

    mmengine's checkpoints hold no state of the random generators, so a resumed run draws other dropout masks than the
    uninterrupted one. With this hook an iteration's draws depend on nothing that came before it, and a resumed run
    ends in the same weights. The order of the data and its augmentations are replayed by mmengine itself when it
    resumes an iteration-based loop; both need a fixed ``randomness.seed``, without one this hook does nothing.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        """Seed all of torch's generators; numpy's and Python's belong to the data pipeline and are left alone."""
        seed = runner.cfg.get('randomness', {}).get('seed')
        if seed is not None:
            words = np.random.SeedSequence([seed, get_rank(), runner.iter]).generate_state(1)
            torch.manual_seed(int(words[0]))
