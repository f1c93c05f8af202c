"""What each kind of model is asked at test time, how two of its answers are compared, and which metrics are errors."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor, nn


def meta_of(images: Tensor) -> list[dict]:
    """Returns what a pipeline says of pictures that it neither resized nor padded, one dict for each."""
    size = tuple(images.shape[2:])
    sizes = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape', 'batch_input_shape'), size)
    return [dict(sizes, padding_size=[0, 0, 0, 0], scale_factor=(1.0, 1.0)) for _ in images]


class Task:
    """What a model is asked. This one serves any module: its features, or whatever it returns.

    A model is of the task that its attribute ``task`` names, else of the first that it :meth:`fits`.
    """

    name = 'features'
    #: Metrics of this task that are better lower: lower case, letters and digits only.
    errors: frozenset[str] = frozenset(('loss', 'error', 'mae', 'mse', 'nll'))
    #: Whether the cost depends on what is in a picture even where the number of tokens does not.
    varies = False

    def fits(self, model: nn.Module) -> bool:
        """Returns whether a model is of this task."""
        return True

    def crops(self, model: nn.Module, size: tuple[int, int]) -> int:
        """Returns the number of crops that a model cuts a picture of ``(H, W)`` pixels into in a test."""
        return 1

    def run(self, model: nn.Module, whole: bool = False) -> Callable[[Tensor], Any]:
        """Returns what the model does to a batch of normalised images ``(B, C, H, W)`` in a test.

        Args:
            model (nn.Module): Of this task.
            whole (bool): Cut the image into crops where the model does so; else the network runs once.
        """
        return getattr(model, 'extract_feat', model)

    def compare(self, dense: Any, reduced: Any) -> dict[str, float]:
        """Returns how much the output of a reduced model is like that of the dense one on the same pictures."""
        pairs = zip(tensors(dense), tensors(reduced), strict=True)
        return {'relative difference': max(float((b - a).norm() / a.norm()) for a, b in pairs)}


class Segment(Task):
    """Backbone, neck, decode head and the resize of the class maps; auxiliary heads do not run."""

    name = 'segment'

    def fits(self, model):
        return hasattr(model, 'encode_decode')

    def crops(self, model, size):
        test_cfg = getattr(model, 'test_cfg', None) or {}
        if not str(test_cfg.get('mode')).startswith('slide'):
            return 1
        beyond = (max(0, side - crop) for side, crop in zip(size, test_cfg['crop_size']))
        return prod(ceil(rest / stride) + 1 for rest, stride in zip(beyond, test_cfg['stride']))

    def run(self, model, whole=False):
        def predict(images: Tensor) -> Tensor:
            slides = whole and self.crops(model, tuple(images.shape[2:])) > 1
            return (model.inference if slides else model.encode_decode)(images, meta_of(images))

        return predict

    def labels(self, logits: Tensor) -> Tensor:
        """Returns the label map ``(B, H, W)`` of class maps ``(B, K, H, W)``; one map holds two classes."""
        return logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()

    def compare(self, dense, reduced):
        """Returns the part of pixels with the same label; of one map also the overlap and the likeness of its sigmoid.

        ``IoU`` is that of the places above 0.5, ``correlation`` Pearson's of all values.
        """
        a, b = self.labels(dense), self.labels(reduced)
        found = {'label agreement': float((a == b).float().mean())}
        if dense.shape[1] == 1:
            union = int((a | b).sum())
            found['IoU'] = int((a & b).sum()) / union if union else 1.0
            values = torch.stack([dense.flatten(), reduced.flatten()]).double().sigmoid()
            if (values.std(1) > 0).all():  # a map of one value is like none
                found['correlation'] = float(torch.corrcoef(values)[0, 1])
        return found


class Depth(Segment):
    """As :class:`Segment`; the maps ``(B, 1, H, W)`` are distances."""

    name = 'depth'
    errors = frozenset(('rmse', 'rmselog', 'absrel', 'sqrel', 'silog', 'log10'))

    def fits(self, model):
        return _is_a(model, 'mmseg.models.segmentors', 'DepthEstimator')

    def crops(self, model, size):
        """Returns the number of crops; ``mode='slide_flip'`` runs each of them mirrored too."""
        return super().crops(model, size) * (2 if (model.test_cfg or {}).get('mode') == 'slide_flip' else 1)

    def compare(self, dense, reduced):
        return {'depth relative difference': float(((reduced - dense).abs() / dense.abs().clamp(min=1e-6)).mean())}


class Detect(Task):
    """Everything up to the boxes and masks, whose number decides a part of the cost."""

    name = 'detect'
    varies = True
    #: Boxes below this score are not compared.
    score = 0.3

    def fits(self, model):
        return _is_a(model, 'mmdet.models', 'BaseDetector')

    def run(self, model, whole=False):
        from mmdet.structures import DetDataSample

        return lambda images: model.predict(
            images, [DetDataSample(metainfo=meta) for meta in meta_of(images)], rescale=False
        )

    def compare(self, dense, reduced):
        """Returns twice the matched boxes over all boxes; a match has the same label and an IoU of at least 0.5."""
        matched = total = 0
        for a, b in zip(dense, reduced, strict=True):
            a, b = (sample.pred_instances for sample in (a, b))
            a, b = a[a.scores >= self.score], b[b.scores >= self.score]
            total += len(a) + len(b)
            overlap = _iou(a.bboxes, b.bboxes) * (a.labels[:, None] == b.labels)
            while overlap.numel() and overlap.max() >= 0.5:
                i, j = divmod(int(overlap.argmax()), overlap.shape[1])
                overlap[i], overlap[:, j] = 0, 0
                matched += 2
        return {'box match': matched / total if total else 1.0}


class Mesh(Task):
    """A model that says ``task = 'mesh'``; its plain output holds ``vertices (P, V, 3)`` in metres for P persons."""

    name = 'mesh'
    errors = frozenset('mpjpe pampjpe pve pvpe papve mve mpvpe pampvpe nmje nmve'.split())

    def fits(self, model):
        return False

    def run(self, model, whole=False):
        return lambda images: model(images, mode='tensor')

    def compare(self, dense, reduced):
        """Returns the mean distance of the vertices in mm, each person of the dense output to the nearest one."""
        a, b = (output['vertices'].float() for output in (dense, reduced))
        distance = (a[:, None] - b[None]).norm(dim=-1).mean(-1)
        nearest = distance.min(1).values if len(b) else distance.new_full((len(a),), float('nan'))
        return {'vertex distance (mm)': 1000 * float(nearest.mean()) if len(a) else 0.0}


#: By name, the more special ones first.
TASKS: dict[str, Task] = {task.name: task for task in (Detect(), Depth(), Segment(), Mesh(), Task())}


def task_of(model: nn.Module) -> Task:
    """Returns the task of a model, see :class:`Task`."""
    named = getattr(model, 'task', None)
    if isinstance(named, str) and named in TASKS:
        return TASKS[named]
    return next(task for task in TASKS.values() if task.fits(model))


def tensors(output: Any) -> list[Tensor]:
    """Returns the tensors in nested lists, tuples, dicts and data elements of mmengine."""
    if isinstance(output, Tensor):
        return [output]
    if hasattr(output, 'all_values'):
        items = output.all_values()
    elif isinstance(output, dict):
        items = output.values()
    else:
        items = output if isinstance(output, (list, tuple)) else ()
    return [tensor for item in items for tensor in tensors(item)]


def _is_a(model: nn.Module, module: str, name: str) -> bool:
    """Returns whether a model is of a class of a package, which is not imported for the question."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(model, kind)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """Returns the overlap ``(N, M)`` of boxes ``(N, 4)`` and ``(M, 4)``, left, top, right, bottom."""
    size = torch.minimum(a[:, None, 2:], b[:, 2:]) - torch.maximum(a[:, None, :2], b[:, :2])
    shared = size.clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    return shared / (areas[0][:, None] + areas[1] - shared)


@dataclass(frozen=True)
class Metric:
    """A metric and the direction in which it is better.

    Args:
        name (str): As the evaluator gives it.
        lower (bool): Lower is better.
    """

    name: str
    lower: bool = False

    @classmethod
    def named(cls, name: str, lower: bool | None = None) -> 'Metric':
        """Returns a metric, better lower if its name is that of an error, such as ``RMSE`` or ``PA-MPJPE``.

        Args:
            name (str): As the evaluator gives it.
            lower (bool, optional): Says the direction where the name does not.
        """
        words = [re.sub('[^a-z0-9]', '', part) for part in re.split('[/._ -]', name.lower())]
        known = {error for task in TASKS.values() for error in task.errors}
        joined = re.sub('[^a-z0-9]', '', name.lower().split('/')[-1])
        return cls(name, bool({joined, *words} & known) if lower is None else lower)

    def loss(self, value: float, dense: float) -> float:
        """Returns how much worse a value is than that of the dense model; negative if it is better."""
        return value - dense if self.lower else dense - value

    @property
    def direction(self) -> str:
        """``lower is better`` or ``higher is better``."""
        return f'{"lower" if self.lower else "higher"} is better'

    def digits(self, value: float) -> int:
        """Returns the decimals to print: two of a percentage or of millimetres, four of a number below 1."""
        return 2 if abs(value) >= 1 else 4
