"""Trains heads on a frozen backbone without running it more than once for each picture."""

import hashlib
import os
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor

from mmtoken.registry import HOOKS


@HOOKS.register_module()
class FeatureCacheHook(Hook):
    """Keeps the outputs of a frozen backbone on disk while a head is trained on them.

    A picture is known by its pixels after the pipeline, so augmentations with few outcomes, such as a flip of the
    whole image, fill the cache in a few epochs; random crops never hit it. The folder is named after the config
    and the weights of the backbone, so several heads can share it and a stale one is never read. Validation runs
    the real backbone. Where exit heads are frozen in a reducer, a decode head learns from all tokens, also from those
    whose predictions are final already.

    Args:
        cache_dir (str): Folder of the cache. Defaults to ``work_dirs/feature_cache``.
        dtype (str): Type that features are kept in. Defaults to ``float16``.
    """

    def __init__(self, cache_dir: str = 'work_dirs/feature_cache', dtype: str = 'float16'):
        self.cache_dir, self.dtype = Path(cache_dir), getattr(torch, dtype)

    def before_train(self, runner) -> None:
        """Puts the cache in front of the backbone.

        Raises:
            ValueError: If the backbone is being trained, or its reducer is late.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        backbone = model.backbone
        trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
        if trained:
            raise ValueError(
                f'FeatureCacheHook needs a frozen backbone, but backbone.{trained[0]} is trained; set '
                'backbone.frozen=True or remove the hook.'
            )
        if getattr(getattr(backbone, 'reducer', None), 'gives_reduced_maps', False):
            raise ValueError(
                "FeatureCacheHook keeps maps, not how to restore them: set custom_hooks=[] with reducer.restore='late'."
            )
        settings = {k: v for k, v in runner.cfg.model.backbone.items() if k != 'init_cfg'}
        # the reducer as it was built: a model may have handed it more than the backbone's config says
        settings['reducer'] = repr(getattr(backbone, 'reducer', None))
        digest = hashlib.blake2b(repr([self.dtype, *sorted(settings.items())]).encode(), digest_size=8)
        for name, value in backbone.state_dict().items():
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        self.folder = self.cache_dir / digest.hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.backbone, self.run = backbone, backbone.forward
        backbone.forward = self.forward
        runner.logger.info(f'Features of the frozen backbone are kept in {self.folder}')

    def after_train(self, runner) -> None:
        """Takes the cache away again."""
        del self.backbone.forward

    def forward(self, inputs: Tensor) -> tuple:
        """Like the backbone's own, from the cache where it can.

        Args:
            inputs (Tensor): Images ``(B, 3, H, W)``.

        Returns:
            tuple[Tensor]: Feature maps ``(B, C, h, w)``.
        """
        if not self.backbone.training:
            return self.run(inputs)
        paths = [self.path(image) for image in inputs]
        missing = [i for i, path in enumerate(paths) if not path.exists()]
        if missing:
            with torch.no_grad():
                outs = self.run(inputs[missing])
            for row, i in enumerate(missing):
                part = paths[i].with_suffix(f'.{os.getpid()}')
                torch.save([out[row].to('cpu', self.dtype) for out in outs], part)
                part.rename(paths[i])
        kept = [torch.load(path, weights_only=True) for path in paths]
        return tuple(torch.stack(maps).to(inputs.device, inputs.dtype) for maps in zip(*kept))

    def path(self, image: Tensor) -> Path:
        """File of one image ``(3, H, W)``."""
        pixels = image.cpu().contiguous().numpy().tobytes()
        return self.folder / f'{hashlib.blake2b(pixels, digest_size=16).hexdigest()}.pt'
