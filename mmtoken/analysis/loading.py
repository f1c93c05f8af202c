"""Models and pictures for the analysis tools, from a config."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import Tensor, nn

from mmtoken.engine.checkpoints import check_checkpoint
from mmtoken.engine.configs import check_datasets, load_config
from mmtoken.engine.errors import UserError
from mmtoken.engine.models import check_host

_UPSTREAM = ('mmseg', 'mmdet', 'mmpretrain')
_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


def read_config(path: str | Path, options: dict | None = None) -> Config:
    """Reads a config and applies ``--cfg-options``; the model is not to fetch pretrained weights."""
    cfg = load_config(str(path), options)
    if 'model' not in cfg:
        raise UserError(f'config {path} has no model; give a whole config, not one of _base_')
    check_host(cfg)
    _forget_pretrained(cfg.model)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    return cfg


def _forget_pretrained(part: Any) -> None:
    """Leaves every part of a model config to its other first weights."""
    if isinstance(part, (list, tuple)):
        for item in part:
            _forget_pretrained(item)
    elif isinstance(part, dict):
        if 'pretrained' in part:
            part['pretrained'] = None
        init = part.get('init_cfg')
        if isinstance(init, dict) and str(init.get('type')).startswith('Pretrained'):
            part['init_cfg'] = None
        for item in part.values():
            _forget_pretrained(item)


@contextmanager
def quiet_log() -> Iterator[None]:
    """Keeps mmengine from telling how each single parameter was made and will be trained."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        yield
    finally:
        logger.setLevel(level)


def one_for_each(flag: str, given: Sequence[str] | None, configs: Sequence) -> list[str | None]:
    """What a flag gives each of several configs: its one value, or one of as many values as there are configs.

    Raises:
        UserError: For another number of values.
    """
    given = given or [None]
    if len(given) not in (1, len(configs)):
        raise UserError(f'{flag}: {len(given)} files for {len(configs)} configs; give one for all, or one for each')
    return list(given) * (len(configs) // len(given))


def build_model(cfg: Config, checkpoint: str | None = None, initialise: bool = True) -> nn.Module:
    """Builds the model of a config in evaluation mode.

    Args:
        cfg (Config): Of :func:`read_config`.
        checkpoint (str, optional): Weights; without, they are random.
        initialise (bool): Draw random weights as training would. Without, some are what was in the memory, which is
            enough for the meta device. Defaults to True.
    """
    with quiet_log():
        # a copy: some of upstream's models write into their config, which would build no second one
        model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
        if checkpoint:
            check_checkpoint(model, checkpoint)
        elif initialise and hasattr(model, 'init_weights'):
            model.init_weights()
    model.eval()
    return model


def stock_config(cfg: Config, model: nn.Module) -> Config | None:
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


def image_shape(cfg: Config, shape: Sequence[int] | None = None) -> tuple[int, int]:
    """``(H, W)`` asked for, or the one that the config trains or slides with.

    Raises:
        ValueError: If the config does not tell, or the shape is none.
    """
    if shape and (len(shape) > 2 or min(shape) < 1):
        raise ValueError(
            f'--shape {" ".join(map(str, shape))} is no image size; give height and width in pixels, or '
            'one number for a square.'
        )
    if not shape:
        test_cfg = cfg.model.get('test_cfg') or {}
        shape = (
            test_cfg.get('crop_size')
            or (cfg.model.get('data_preprocessor') or {}).get('size')
            or (cfg.model.get('backbone') or {}).get('img_size')
        )
    if not shape:
        raise ValueError(
            'The config names no image size (test_cfg.crop_size, data_preprocessor.size or '
            'backbone.img_size); give --shape H W.'
        )
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return shape * 2 if len(shape) == 1 else shape


def read_images(model: nn.Module, source: str | Path | Sequence[Path], shape: tuple[int, int], num: int) -> Tensor:
    """Pictures, resized, then normalised and put in order as the model's own preprocessor does it.

    Args:
        model (nn.Module): With a ``data_preprocessor``.
        source (str | Path | Sequence[Path]): A folder, searched with its subfolders, its pictures taken in the order of
            their names; or the files themselves.
        shape (tuple[int, int]): ``(H, W)``; the aspect ratio is not kept.
        num (int): At most so many, spread over them.

    Returns:
        Tensor: ``(N, 3, H, W)``.

    Raises:
        ValueError: If the folder holds no picture, or a file is none.
    """
    import mmcv

    paths = source
    if isinstance(source, (str, Path)):
        paths = sorted(p for p in Path(source).rglob('*') if p.suffix.lower() in _SUFFIXES)
        if not paths:
            raise ValueError(f"--images='{source}' holds no pictures ({', '.join(_SUFFIXES)}).")
    pictures = []
    for path in spread_out(paths, num):
        picture = mmcv.imread(path)
        if picture is None:
            raise ValueError(f'{path} is no picture that OpenCV can read; take it out of the folder.')
        pictures.append(torch.from_numpy(mmcv.imresize(picture, shape[::-1])).permute(2, 0, 1))
    normalised = [model.data_preprocessor(dict(inputs=[p], data_samples=None), False)['inputs'] for p in pictures]
    return torch.cat(normalised)


def spread_out(items: Sequence, num: int) -> list:
    """At most ``num`` of the items, evenly, the first and the last among them."""
    places = torch.linspace(0, len(items) - 1, min(num, len(items)), dtype=torch.float64).round().long()
    return [items[place] for place in places.tolist()]


def _test_set(cfg: Config, instead: str):
    """The dataset of ``cfg.test_dataloader``.

    Raises:
        UserError: If the config has none, or its data are not there; says what to do ``instead``.
    """
    if not cfg.get('test_dataloader'):
        raise UserError(f'the config has no test_dataloader to take pictures from; {instead}')
    try:
        check_datasets(cfg, ['test'])
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    except (UserError, OSError) as error:
        raise UserError(f'{str(error).removesuffix(".")}; or {instead}') from error
    if not len(dataset):
        raise UserError(f'test_dataloader.dataset is empty; {instead}')
    return dataset


def dataset_pictures(cfg: Config, instead: str) -> list[Path]:
    """Files of the pictures of a config's test set; raises as :func:`dataset_inputs` does."""
    dataset = _test_set(cfg, instead)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [Path(info['img_path']) for info in infos]


def dataset_inputs(cfg: Config, model: nn.Module, num: int, instead: str) -> list[Tensor]:
    """What a test feeds to the network: pictures out of the config's own pipeline and the model's preprocessor.

    Args:
        cfg (Config): With a ``test_dataloader``.
        model (nn.Module): With a ``data_preprocessor``.
        num (int): At most so many pictures, spread over the test set.
        instead (str): What else the user can do, for the message.

    Returns:
        list[Tensor]: ``(1, 3, H, W)`` each, of the size that its picture has in a test.

    Raises:
        UserError: If there are no data; one line that names the key and what can be done instead.
    """
    dataset = _test_set(cfg, instead)
    inputs = []
    for i in spread_out(range(len(dataset)), num):
        try:
            inputs.append(dataset_input(dataset, i, model, 'test_dataloader.dataset'))
        except UserError as error:
            raise UserError(f'{error}; or {instead}') from error
    return inputs


def dataset_input(dataset: Any, i: int, model: nn.Module, key: str) -> Tensor:
    """What a test feeds to the network of item ``i`` of a dataset, ``(1, 3, H, W)``.

    Raises:
        UserError: If its files cannot be read; names the ``key`` of the dataset.
    """
    try:
        data = dataset[i]
    except (OSError, AssertionError) as error:  # the latter is mmcv's for what is no picture
        raise UserError(f'{key}: item {i}: {error}; mend or remove the file') from error
    return model.data_preprocessor(pseudo_collate([data]), False)['inputs']
