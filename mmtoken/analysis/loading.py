"""Models and pictures for the analysis tools, from a config."""

import copy
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, init_default_scope
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmtoken.engine.checkpoints import check_checkpoint
from mmtoken.engine.configs import check_datasets, datasets_of, load_config, name_bad_files
from mmtoken.engine.errors import UserError, user_errors
from mmtoken.engine.models import check_heads, check_host, deploy

from .flops import cost_varies, image_channels

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
    """Keeps mmengine from telling how each parameter was made, and upstream from warning of what it calls itself."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', category=UserWarning, module='(mmseg|mmdet|mmpretrain|mmcv|mmengine)[.]')
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


def build_model(
    cfg: Config, checkpoint: str | None = None, initialise: bool = True, training: bool = False
) -> nn.Module:
    """Builds the model of a config in evaluation mode.

    Args:
        cfg (Config): Of :func:`read_config`.
        checkpoint (str, optional): Weights; without, they are random.
        initialise (bool): Draw random weights as training would. Without, some are what was in the memory, which is
            enough for the meta device. Defaults to True.
        training (bool): Keep what only training needs. Defaults to False.
    """
    with quiet_log():
        # a copy: some of upstream's models write into their config, which would build no second one
        with user_errors('the model of the config cannot be built'):
            model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
            if not checkpoint and initialise and hasattr(model, 'init_weights'):
                model.init_weights()
        if checkpoint:
            check_checkpoint(model, checkpoint)
    check_heads(model)
    if not training:
        deploy(model)
    model.eval()
    return model


def build_models(
    paths: Sequence[str], checkpoints: Sequence[str] | None, stock: bool, device: str, training: bool = False
) -> tuple[dict[str, Config], dict[str, nn.Module]]:
    """Configs and models by name, the first first.

    Args:
        paths (Sequence[str]): Config files.
        checkpoints (Sequence[str], optional): One for all, or one for each.
        stock (bool): Add what upstream makes of the first.
        device (str): Where the models go.
        training (bool): Keep what only training needs. Defaults to False.
    """
    configs: dict[str, Config] = {}
    models: dict[str, nn.Module] = {}

    def add(name: str, cfg: Config, weights: str | None) -> None:
        while name in configs:
            name += "'"
        configs[name], models[name] = cfg, build_model(cfg, weights, training=training).to(device)

    for path, weights in zip(paths, one_for_each('--checkpoint', checkpoints, paths)):
        add(Path(path).stem, read_config(path), weights)
    if stock:
        base = next(iter(configs))
        upstream = stock_config(configs[base], models[base])
        if upstream is None:
            raise UserError('--stock: upstream has no class behind the backbone of the first config.')
        add('stock', upstream, checkpoints and checkpoints[0])
    return configs, models


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
            or cfg.model.get('input_size')  # longest side of a human mesh model's pictures
            or _resized(cfg)
            or (cfg.model.get('backbone') or {}).get('img_size')
        )
    if not shape:
        raise ValueError(
            'The config names no image size (test_cfg.crop_size, data_preprocessor.size, the scale of a Resize in the '
            'test pipeline or backbone.img_size); give --shape H W.'
        )
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return shape * 2 if len(shape) == 1 else shape


def _resized(cfg: Config) -> tuple[int, int] | None:
    """``(H, W)`` that a detector's test pipeline resizes pictures to; segmentors resize, then crop or slide."""
    if cfg.get('default_scope') != 'mmdet':
        return None
    _, dataset = next(datasets_of(cfg.get('test_dataloader') or {}, ''), (None, {}))
    step = next((step for step in dataset.get('pipeline') or () if str(step.type).endswith('Resize')), {})
    scale = step.get('scale')
    return (scale[1], scale[0]) if isinstance(scale, (list, tuple)) else None


def read_pictures(
    source: str | Path | Sequence[Path],
    shape: tuple[int, int],
    num: int,
    cfg: Config | None = None,
    channels: int = 3,
) -> list[np.ndarray]:
    """Pictures, resized.

    Args:
        source (str | Path | Sequence[Path]): A folder, searched with its subfolders, its pictures taken in the order of
            their names; or the files themselves.
        shape (tuple[int, int]): ``(H, W)``; the aspect ratio is not kept.
        num (int): At most so many, spread over them.
        cfg (Config, optional): Reads the pictures as the first step of its test pipeline does.
        channels (int): That the model takes.

    Returns:
        list[np.ndarray]: ``(H, W, C)`` each, as read: BGR where a file has three channels.

    Raises:
        UserError: If the folder holds no picture, or a file is none, or has other channels than the model takes.
    """
    paths = source
    if isinstance(source, (str, Path)):
        paths = sorted(p for p in Path(source).rglob('*') if p.suffix.lower() in _SUFFIXES)
        if not paths:
            raise UserError(f"--images='{source}' holds no pictures ({', '.join(_SUFFIXES)})")
    import mmcv
    import mmcv.transforms  # registers its reader

    return [mmcv.imresize(read_picture(path, cfg, channels), shape[::-1]) for path in spread_out(paths, num)]


def read_images(
    model: nn.Module, source: str | Path | Sequence[Path], shape: tuple[int, int], num: int, cfg: Config | None = None
) -> Tensor:
    """Pictures, resized, then normalised and put in order as the model's own preprocessor does it.

    Args:
        model (nn.Module): With a ``data_preprocessor``.
        source (str | Path | Sequence[Path]): See :func:`read_pictures`, as for the others.
        shape (tuple[int, int]): ``(H, W)``.
        num (int): At most so many.
        cfg (Config, optional): Of the model.

    Returns:
        Tensor: ``(N, C, H, W)``.

    Raises:
        UserError: As :func:`read_pictures` does.
    """
    pictures = read_pictures(source, shape, num, cfg, image_channels(model))
    return torch.cat([normalised(model, picture) for picture in pictures])


def timing_pictures(
    models: dict[str, nn.Module], cfg: Config, folder: str | None, shape: tuple[int, int], num: int, batch: int
) -> tuple[Tensor, str]:
    """Normalised images ``(N, C, H, W)`` to time models on, and what they are.

    Args:
        models (dict[str, nn.Module]): By name; the first normalises.
        cfg (Config): Of the first, whose test set is taken without a folder.
        folder (str, optional): Of pictures.
        shape (tuple[int, int]): ``(H, W)`` that they are resized to.
        num (int): At most so many.
        batch (int): Pictures of noise, where there are no others and no model looks at them.
    """
    model, source = next(iter(models.values())), folder
    device = next(model.parameters()).device
    if source is None:
        try:
            source = dataset_pictures(cfg, 'give --images DIR')
        except UserError:
            if any(map(cost_varies, models.values())):
                raise
            noise = torch.randn(batch, image_channels(model), *shape, generator=torch.manual_seed(0))
            return noise.to(device), 'noise'
    images = read_images(model, source, shape, num, cfg).to(device)
    return images, f'{len(images)} pictures' + ('' if folder else ' of the test set')


def read_picture(path: str | Path, cfg: Config | None = None, channels: int = 3, key: str = '--images') -> np.ndarray:
    """One picture ``(H, W, C)``, read as the first step of a config's test pipeline does it.

    Args:
        path (str | Path): Its file.
        cfg (Config, optional): Of the model.
        channels (int): That the model takes; if it is not 3, files are read with all that they have.
        key (str): Argument that named the file, for the message.

    Raises:
        UserError: If the file is no picture, or has other channels.
    """
    pipeline = ((cfg or {}).get('test_dataloader') or {}).get('dataset', {}).get('pipeline') or []
    step = next((step for step in pipeline if re.search('Load(?!.*Annotations)', str(step.type))), None)
    step = step or dict(type='LoadImageFromFile')
    if step['type'] == 'LoadImageFromFile' and channels != 3:
        step = dict(step, color_type='unchanged')
    try:
        picture = TRANSFORMS.build(step)(dict(img_path=str(path), img_id=0))['img']
        picture = picture if picture.ndim == 3 else picture[..., None]
    except Exception as error:  # each reader has another one
        raise UserError(
            f'{key}: cannot read {path} with {step["type"]}; give a picture, such as a JPEG file'
        ) from error
    if picture.shape[2] != channels:
        raise UserError(
            f'{key}: {path} has {picture.shape[2]} channels, the model takes {channels}; give such pictures'
        )
    return picture


def normalised(model: nn.Module, picture: np.ndarray) -> Tensor:
    """A picture ``(H, W, C)`` as the model's own preprocessor hands it on, ``(1, C, H, W)``."""
    picture = picture if picture.ndim == 3 else picture[..., None]
    data = dict(inputs=[torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)], data_samples=None)
    return model.data_preprocessor(data, False)['inputs']


def class_colors(cfg: Config, checkpoint: str | None, number: int) -> tuple[list[str], list]:
    """Names and RGB colours of the classes.

    They are those that the checkpoint was trained on, if it says so, else those of the config's test or validation
    set. Where neither has as many, names are numbers and colours are random.

    Args:
        cfg (Config): With a ``test_dataloader`` or ``val_dataloader``.
        checkpoint (str, optional): Of which ``meta.dataset_meta`` is read.
        number (int): Classes of the model.
    """
    known = [_dataset_meta(cfg.get(f'{split}_dataloader') or {}, cfg.get('default_scope')) for split in ('test', 'val')]
    if checkpoint:
        state = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
        meta = (state.get('meta') or {}) if isinstance(state, dict) else {}
        known.insert(0, {key.lower(): value for key, value in (meta.get('dataset_meta') or {}).items()})
    drawn = np.random.default_rng(0).integers(40, 256, (number, 3)).tolist()
    default = dict(classes=list(map(str, range(number))), palette=drawn)

    def first(key: str) -> list:
        found = (list(meta.get(key) or ()) for meta in known)
        return next((values for values in found if len(values) == number), default[key])

    return first('classes'), first('palette')


def _dataset_meta(node: dict, scope: str | None) -> dict:
    """``metainfo`` of the first dataset in a dataloader that has classes, its class's own included."""
    inner = node.get('dataset') or node.get('datasets')
    if inner:
        several = inner if isinstance(inner, (list, tuple)) else [inner]
        return next(filter(None, (_dataset_meta(one, scope) for one in several)), {})
    with DATASETS.switch_scope_and_registry(scope) as registry:
        kind = registry.get(node['type']) if 'type' in node else None
    return {**(getattr(kind, 'METAINFO', None) or {}), **(node.get('metainfo') or {})}


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
    cfg = copy.deepcopy(cfg)
    name_bad_files(cfg)
    try:
        check_datasets(cfg, ['test'])
        with user_errors('test_dataloader.dataset cannot be built'):
            dataset = DATASETS.build(cfg.test_dataloader.dataset)
    except (UserError, OSError) as error:
        raise UserError(f'{str(error).removesuffix(".")}; or {instead}') from error
    if not len(dataset):
        raise UserError(f'test_dataloader.dataset is empty; {instead}')
    return dataset


def dataset_pictures(cfg: Config, instead: str) -> list[Path]:
    """Files of the pictures of a config's test set; raises as :func:`dataset_inputs` does."""
    dataset = _test_set(cfg, instead)
    first = Path(dataset.get_data_info(0)['img_path'])
    if not first.is_file():  # drawn when it is asked for, as crowds are
        raise UserError(f'test_dataloader.dataset: its pictures lie in no files, such as {first}; {instead}')
    return [Path(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))]


def dataset_inputs(cfg: Config, model: nn.Module, num: int, instead: str) -> list[Tensor]:
    """What a test feeds to the network: pictures out of the config's own pipeline and the model's preprocessor.

    Args:
        cfg (Config): With a ``test_dataloader``.
        model (nn.Module): With a ``data_preprocessor``.
        num (int): At most so many pictures, spread over the test set.
        instead (str): What else the user can do, for the message.

    Returns:
        list[Tensor]: ``(1, C, H, W)`` each, of the size that its picture has in a test.

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
    """What a test feeds to the network of item ``i`` of a dataset, ``(1, C, H, W)``.

    Raises:
        UserError: If its files cannot be read; names the ``key`` of the dataset.
    """
    with user_errors(f'{key}: item {i}'):
        try:
            data = dataset[i]
        except (OSError, ValueError) as error:
            raise UserError(f'{key}: item {i}: {error}; mend or remove the file') from error
        image = model.data_preprocessor(pseudo_collate([data]), False)['inputs']
        if not isinstance(image, Tensor):
            raise UserError('model.data_preprocessor makes no batch of the pictures; set that of the model')
    return image
