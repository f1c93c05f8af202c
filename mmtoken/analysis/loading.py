"""Models and pictures for the analysis tools, from a config."""

import copy
from pathlib import Path
from typing import Optional, Sequence, Union

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmtoken.engine.checks import check_checkpoint, load_config

_UPSTREAM = ('mmseg', 'mmdet', 'mmpretrain')
_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


def read_config(path: Union[str, Path], options: Optional[dict] = None) -> Config:
    """Reads a config and applies ``--cfg-options``; the model is not to fetch pretrained weights."""
    cfg = load_config(str(path), options)
    if 'pretrained' in cfg.model:
        cfg.model.pretrained = None
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    return cfg


def build_model(cfg: Config, checkpoint: Optional[str] = None) -> nn.Module:
    """Builds the model of a config in evaluation mode, with a checkpoint's weights or those of its constructor."""
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    if checkpoint:
        check_checkpoint(model, checkpoint)
        load_checkpoint(model, checkpoint, map_location='cpu')
    model.eval()
    return model


def stock_config(cfg: Config, model: nn.Module) -> Optional[Config]:
    """The same model as upstream has it: the classes that ours derive from, no reducer.

    Returns:
        Config: None when the backbone derives from no upstream class.
    """
    stock = copy.deepcopy(cfg)
    for part, built in ((stock.model, model), (stock.model.backbone, model.backbone)):
        upstream = [c for c in type(built).__mro__ if c.__module__.split('.')[0] in _UPSTREAM]
        if not upstream:
            return None
        part.type = f'{upstream[0].__module__.split(".")[0]}.{upstream[0].__name__}'
    stock.model.backbone.pop('reducer', None)
    return stock


def image_shape(cfg: Config, shape: Optional[Sequence[int]] = None) -> tuple[int, int]:
    """``(H, W)`` asked for, or the one that the config trains or slides with.

    Raises:
        ValueError: If the config does not tell.
    """
    if not shape:
        test_cfg = cfg.model.get('test_cfg') or {}
        shape = (
            test_cfg.get('crop_size') or (cfg.model.get('data_preprocessor') or {}).get('size')
            or cfg.model.backbone.get('img_size'))
    if not shape:
        raise ValueError('The config names no image size (test_cfg.crop_size, data_preprocessor.size or '
                         'backbone.img_size); give --shape H W.')
    shape = (shape, ) if isinstance(shape, int) else tuple(shape)
    return shape * 2 if len(shape) == 1 else shape


def read_images(model: nn.Module, folder: Union[str, Path], shape: tuple[int, int], num: int) -> Tensor:
    """Pictures of a folder, resized, then normalised and put in order as the model's own preprocessor does it.

    Args:
        model (nn.Module): With a ``data_preprocessor``.
        folder (str | Path): Searched with its subfolders; the pictures are taken in the order of their names.
        shape (tuple[int, int]): ``(H, W)``; the aspect ratio is not kept.
        num (int): At most so many, spread over the folder.

    Returns:
        Tensor: ``(N, 3, H, W)``.

    Raises:
        ValueError: If the folder holds no picture.
    """
    import mmcv
    paths = sorted(p for p in Path(folder).rglob('*') if p.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ValueError(f"--images='{folder}' holds no pictures ({', '.join(_SUFFIXES)}).")
    paths = paths[::max(1, len(paths) // num)][:num]
    pictures = [torch.from_numpy(mmcv.imresize(mmcv.imread(p), shape[::-1])).permute(2, 0, 1) for p in paths]
    normalised = [model.data_preprocessor(dict(inputs=[p], data_samples=None), False)['inputs'] for p in pictures]
    return torch.cat(normalised)
