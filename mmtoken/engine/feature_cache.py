"""Trains heads on a frozen backbone without running it more than once for each picture."""

import hashlib
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from mmtoken import core
from mmtoken.core import Packing, Tokens
from mmtoken.registry import HOOKS

from .configs import datasets_of
from .digests import describe, raw_bytes
from .errors import UserError
from .files import replacing

#: What an output is for one picture: a map, or features, coordinates and sizes of tokens.
Row = Tensor | list[Tensor]


@HOOKS.register_module()
class FeatureCacheHook(Hook):
    """Keeps the outputs of a frozen backbone on disk while a head is trained on them.

    A picture is known by its pixels after the pipeline, so augmentations with few outcomes, such as a flip of the
    whole image, fill the cache in a few epochs; random crops never hit it. Outputs are maps, or tokens where the model
    reads tokens, however many each picture has. The folder is named after all that decides
    a feature (:func:`folder_name`), so several decode heads can share it and a stale one is never read. Validation runs
    the real backbone. Where exit heads are frozen in a reducer, a decode head learns from all tokens, also from those
    whose predictions are final already.

    Args:
        cache_dir (str): Folder of the cache. Defaults to ``work_dirs/feature_cache``.
        dtype (str): Type that features are kept in. Defaults to ``float16``.
        amp (str, optional): Type that the backbone runs in, by autocast, such as ``bfloat16``, which is several times
            as fast on CPUs that have matrix units for it. Defaults to what the training runs in.
    """

    def __init__(self, cache_dir: str = 'work_dirs/feature_cache', dtype: str = 'float16', amp: str | None = None):
        self.cache_dir, self.dtype = Path(cache_dir), getattr(torch, dtype)
        self.amp = None if amp is None else getattr(torch, amp)
        self.full = False

    def before_train(self, runner) -> None:
        """Puts the cache in front of the backbone.

        Raises:
            ValueError: If the backbone is being trained, or its reducer is late or varies while a head is trained.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        backbone = model.backbone
        trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
        if trained:
            raise ValueError(
                f'FeatureCacheHook needs a frozen backbone, but backbone.{trained[0]} is trained; set '
                'backbone.frozen=True or remove the hook.'
            )
        reducer = getattr(backbone, 'reducer', None)
        if reason := getattr(reducer, 'varies', ''):
            raise ValueError(
                f'FeatureCacheHook keeps what a picture gave once, and the reducer {reason} in training; change that, '
                'or set custom_hooks=[].'
            )
        if getattr(reducer, 'gives_reduced_maps', False):
            raise ValueError(
                "FeatureCacheHook keeps maps, not how to restore them: set custom_hooks=[] with reducer.restore='late'."
            )
        self.folder = self.cache_dir / folder_name(backbone, runner.cfg, self.dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.backbone, self.run, self.logger = backbone, backbone.forward, runner.logger
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
            tuple[Tensor | Tokens]: Feature maps ``(B, C, h, w)``, or tokens.
        """
        if not self.backbone.training:
            return self.run(inputs)
        with torch.no_grad(), self.precision(inputs.device.type):
            outputs = self.outputs(inputs)
        return tuple(batch_of(rows, inputs) for rows in zip(*outputs))

    def precision(self, device: str) -> AbstractContextManager:
        """Returns the precision that the backbone runs in."""
        return nullcontext() if self.amp is None else torch.autocast(device, self.amp)

    def outputs(self, inputs: Tensor) -> list[list[Row]]:
        """Returns the outputs for each image, from the cache or made for it."""
        padding = getattr(self.backbone, 'padding', None)
        paths = [self.path(image, None if padding is None else padding[i]) for i, image in enumerate(inputs)]
        found = [self.read(path) for path in paths]
        missing = [i for i, rows in enumerate(found) if rows is None]
        if missing:
            with nullcontext() if padding is None else self.backbone.padded(padding[missing]):
                made = [rows_of(out, self.dtype) for out in self.run(inputs[missing])]
            for i, *rows in zip(missing, *made):
                found[i] = rows
                self.write(paths[i], rows)
        return found

    def read(self, path: Path) -> list[Row] | None:
        """Returns the outputs in a file, None if there is none that can be read."""
        try:
            return torch.load(path, weights_only=True)
        except FileNotFoundError:
            return None
        except Exception:  # it is cut, or written over: made anew
            self.logger.warning(f'{path} cannot be read; its features are computed again.')
            return None

    def write(self, path: Path, rows: list[Row]) -> None:
        """Keeps the outputs for a picture; training goes on without a cache where that fails."""
        if self.full:
            return
        try:
            with replacing(path) as part:
                torch.save(rows, part)
        except (UserError, RuntimeError) as error:  # torch's own for a full disk is the latter
            self.full = True
            self.logger.warning(f'Features are no longer kept: {str(error).splitlines()[0]}')

    def path(self, image: Tensor, padding: Tensor | None = None) -> Path:
        """File of one image ``(3, H, W)``: its pixels, shape and padding, and the precision that the backbone runs in.

        Args:
            image (Tensor): The image.
            padding (Tensor, optional): Its patches that hold only padding ``(grid_h, grid_w)``, bool.
        """
        kind = image.device.type
        amp = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        digest = hashlib.blake2b(repr((*image.shape, image.dtype, kind, amp)).encode(), digest_size=16)
        digest.update(raw_bytes(image))
        if padding is not None:
            digest.update(raw_bytes(padding))
        return self.folder / f'{digest.hexdigest()}.pt'


def rows_of(out: Tensor | Tokens, dtype: torch.dtype) -> list[Row]:
    """Takes an output apart, one row an image, on the CPU; features become ``dtype``."""
    if isinstance(out, Tokens):
        return [[one.x.to('cpu', dtype), one.coords.cpu(), one.sizes.cpu()] for one in out.split()]
    return list(out.to('cpu', dtype))


def batch_of(rows: Sequence[Row], like: Tensor) -> Tensor | Tokens:
    """Puts rows of :func:`rows_of` together again; device and type of the features are those of ``like``."""
    if isinstance(rows[0], Tensor):
        return torch.stack([row.to(like.dtype) for row in rows]).to(like.device)
    features, coords, sizes = zip(*rows)
    # Types are changed first: under autocast, torch joins no halves on a CPU.
    x = torch.cat([part.to(like.dtype) for part in features]).to(like.device)
    lengths = [len(part) for part in features]
    packing = Packing(torch.tensor(lengths, device=like.device), lengths)
    return Tokens(x, packing, *(torch.cat(parts).to(like.device, torch.float32) for parts in (coords, sizes)))


#: Parts of a model that read what the backbone gives, and have no say in it.
BEHIND = (
    *('decode_head', 'neck', 'rpn_head', 'roi_head', 'bbox_head', 'mask_head', 'train_cfg', 'test_cfg'),
    *('body_model', 'num_queries', 'decoder', 'denoising', 'matcher', 'losses', 'camera'),
)


def folder_name(backbone: nn.Module, cfg: Any, dtype: torch.dtype) -> str:
    """Name of the folder for the features of a backbone: whatever decides a feature beside the picture is in it.

    That is the config of the model but for its neck and heads, the pipeline, the backbone as it was built (a model may
    have handed it more than its config says), its weights, the code and torch's version, and the type of the features.

    Args:
        backbone: The backbone that is cached.
        cfg: The whole config.
        dtype: Type that features are kept in.
    """
    model = dict(vars(cfg.model) if isinstance(cfg.model, SimpleNamespace) else cfg.model)
    for part in BEHIND:  # several may learn on one cache
        model.pop(part, None)
    data = getattr(cfg, 'train_dataloader', None)
    pipelines = [dataset.get('pipeline') for _, dataset in datasets_of(data, '')] if data else None
    facts = [torch.__version__, dtype, model, pipelines, backbone]
    digest = hashlib.blake2b(repr([describe(fact, set()) for fact in facts]).encode(), digest_size=8)
    for name, value in backbone.state_dict().items():
        digest.update(f'{name} {tuple(value.shape)} {value.dtype}'.encode() + raw_bytes(value))
    for file in sorted(sources(backbone)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def sources(backbone: nn.Module) -> set[Path]:
    """Files with the code of a backbone: those of its modules' classes, without torch's, and mmtoken's core."""
    classes = {cls for module in backbone.modules() for cls in type(module).__mro__}
    names = {cls.__module__ for cls in classes if cls.__module__.split('.')[0] not in ('torch', 'builtins')}
    files = {Path(file) for name in names if (file := getattr(sys.modules.get(name), '__file__', None))}
    return {file for file in files | set(Path(core.__file__).parent.glob('*.py')) if file.is_file()}
