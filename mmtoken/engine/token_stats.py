"""Logs how many tokens are kept, layer by layer."""

from contextlib import ExitStack

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from torch import nn

from mmtoken.core import TokenHost, TokenState
from mmtoken.registry import HOOKS

from .models import unwrap


@HOOKS.register_module()
class TokenStatsHook(Hook):
    """Logs the patch tokens that enter the MLP of each block, as scalars of the visualizer.

    ``train/tokens/00`` is their count in block 0, mean over the images since the last time and over all processes, and
    ``train/tokens_part/00`` that count over the patches of the images; likewise ``val/`` and ``test/``. The numbers
    come from the shapes of tensors, so nothing waits for the device. With ``mmtoken.FeatureCacheHook`` only pictures
    that the backbone really sees are counted.

    Args:
        interval (int): Training iterations between two logs. Validation and testing log once, at their end. Defaults
            to 50.
    """

    priority = 'VERY_LOW'  # after hooks that copy the model, whose copies must not be counted

    def __init__(self, interval: int = 50):
        if interval < 1:
            raise ValueError(f'TokenStatsHook.interval={interval} must be at least 1.')
        self.interval = interval
        self.mode, self.depth = 'train', 0
        self.host: nn.Module | None = None
        #: By mode: tokens of each block, then patches and images, summed up since the last log.
        self.sums: dict[str, list[int]] = {}

    def before_run(self, runner) -> None:
        """Finds the backbone and counts its tokens.

        Raises:
            ValueError: If the model has no backbone of mmtoken's.
        """
        self.host = next((m for m in unwrap(runner.model).modules() if isinstance(m, TokenHost)), None)
        if self.host is None:
            raise ValueError(
                "TokenStatsHook finds no backbone of mmtoken's in the model; set model.backbone.type="
                "'mmtoken.TokenVisionTransformer' or the like, or remove the hook."
            )
        self.depth = len(self.host.blocks)
        self.stack = ExitStack()
        self.stack.enter_context(self.host.watching(self.see))

    def after_run(self, runner) -> None:
        """Stops listening."""
        self.stack.close()
        self.host = None

    @torch.compiler.disable
    def see(self, state: TokenState, i: int) -> None:
        """Adds the counts of one batch when its pass is done."""
        if i < self.depth:
            return
        images = len(state.x) if state.packing is None else len(state.packing)
        sums = self.sums.setdefault(self.mode, [0] * (self.depth + 2))
        for block, count in enumerate(state.counts):
            sums[block] += count - images * state.num_prefix
        sums[-2] += images * state.grid[0] * state.grid[1]
        sums[-1] += images

    def log(self, runner, step: int) -> None:
        """Writes the means of the running mode and starts anew."""
        sums = torch.tensor(self.sums.pop(self.mode, [0] * (self.depth + 2)), dtype=torch.float64)
        all_reduce(sums)
        *tokens, patches, images = sums.tolist()
        if images:
            means = {f'{self.mode}/tokens/{i:02}': count / images for i, count in enumerate(tokens)}
            parts = {f'{self.mode}/tokens_part/{i:02}': count / patches for i, count in enumerate(tokens)}
            runner.visualizer.add_scalars({**means, **parts}, step=step)
            kept = ' '.join(f'{count / patches:.2f}' for count in tokens)
            runner.logger.info(f'{self.mode}: part of the patches that enters each block: {kept}')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self.log(runner, runner.iter + 1)

    def before_val(self, runner) -> None:
        self.mode = 'val'

    def after_val(self, runner) -> None:
        self.log(runner, iterations(runner))
        self.mode = 'train'

    def before_test(self, runner) -> None:
        self.mode = 'test'

    def after_test(self, runner) -> None:
        self.log(runner, iterations(runner))
        self.mode = 'train'


def iterations(runner) -> int:
    """Iterations trained so far; ``runner.iter`` would build the training loop, and with it the training data."""
    loop = runner._train_loop
    return loop.iter if isinstance(loop, BaseLoop) else 0
