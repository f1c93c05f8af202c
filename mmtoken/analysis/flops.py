"""What a whole model costs at test time, in multiply-adds, and which of its parts."""

import statistics
import sys
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .counter import MacReport, Seen, count_macs, replaced, restore_name
from .operators import CONVENTION

__all__ = [
    'CONVENTION',
    'PARTS',
    'MacReport',
    'cost_keys',
    'cost_varies',
    'count_macs',
    'crop_macs',
    'inference_path',
    'is_dynamic',
    'mean_report',
    'model_parts',
    'over_pictures',
    'part_table',
    'predicts_boxes',
    'segmentor_macs',
    'slides',
    'sum_uncounted',
]

T = TypeVar('T')

#: In the order of the work; ``other`` is work of the model itself, outside of its children.
PARTS = ('stem', 'blocks', 'reduce', 'restore', 'neck', 'heads', 'other')


def slides(model: nn.Module) -> bool:
    """Whether a segmentor cuts an image into crops at test time."""
    test_cfg = getattr(model, 'test_cfg', None) if hasattr(model, 'encode_decode') else None
    return (test_cfg or {}).get('mode') == 'slide'


def predicts_boxes(model: nn.Module) -> bool:
    """Whether a model is one of mmdet's, whose cost may depend on how many boxes it sees in a picture."""
    base = getattr(sys.modules.get('mmdet.models'), 'BaseDetector', None)
    return base is not None and isinstance(model, base)


def is_dynamic(model: nn.Module) -> bool:
    """Whether the number of tokens depends on the picture."""
    return any(getattr(module, 'dynamic', False) for module in model.modules())


def cost_varies(model: nn.Module) -> bool:
    """Whether the cost of a model may depend on what is in a picture, and not on its size alone."""
    return is_dynamic(model) or predicts_boxes(model)


def cost_keys(model: nn.Module, inputs: Sequence[Tensor]) -> list[Hashable]:
    """A key for each input; those with the same key cost a model the same."""
    varies = cost_varies(model)
    return [n if varies else tuple(images.shape) for n, images in enumerate(inputs)]


def over_pictures(model: nn.Module, inputs: Sequence[Tensor], count: Callable[[int], T]) -> list[T]:
    """What a count finds on each input; of those that cost the same one is counted.

    Args:
        model (nn.Module): That is counted.
        inputs (Sequence[Tensor]): Images ``(B, 3, H, W)``.
        count (Callable): Gets the place of an input.
    """
    known: dict[Hashable, T] = {}
    keys = cost_keys(model, inputs)
    for n, key in enumerate(keys):
        if key not in known:
            known[key] = count(n)
    return [known[key] for key in keys]


def mean_report(reports: Sequence[MacReport], batch: int = 1) -> MacReport:
    """Total and tokens a picture, mean over reports of ``batch`` pictures each; what none of them counted, summed."""
    return MacReport(
        total=statistics.mean(report.total for report in reports) / batch,
        uncounted=sum_uncounted(reports),
        tokens=[statistics.mean(block) for block in zip(*(report.tokens for report in reports))],
    )


def sum_uncounted(reports: Sequence[MacReport]) -> dict[str, Seen]:
    """Calls and elements of what has no formula, over all reports."""
    total: dict[str, Seen] = {}
    for name, seen in (item for report in reports for item in report.uncounted.items()):
        total[name] = Seen(*(a + b for a, b in zip(seen, total.get(name, (0, 0)))))
    return total


def inference_path(model: nn.Module, whole: bool = False) -> Callable[[Tensor], Any]:
    """What a model does to a batch of normalised images ``(B, 3, H, W)`` at test time.

    A segmentor: backbone, neck, decode head, and the resize of its class maps to the image, which has no MACs;
    auxiliary heads do not run. A detector: everything up to its boxes and masks. Any other module: its feature
    extractor if it has one, else itself.

    Args:
        model (nn.Module): Of mmseg, mmdet or any other kind.
        whole (bool): Let a segmentor with ``test_cfg.mode='slide'`` cut the image into crops, as it does in a test;
            else the network runs once, on what it is given. Defaults to False.
    """

    def about(images: Tensor) -> list[dict]:
        size = tuple(images.shape[2:])
        one = dict(
            ori_shape=size,
            img_shape=size,
            pad_shape=size,
            batch_input_shape=size,
            padding_size=[0, 0, 0, 0],
            scale_factor=(1.0, 1.0),
        )
        return [dict(one) for _ in images]

    if hasattr(model, 'encode_decode'):
        run = model.inference if whole and slides(model) else model.encode_decode
        return lambda images: run(images, about(images))
    if predicts_boxes(model):
        from mmdet.structures import DetDataSample

        return lambda images: model.predict(
            images, [DetDataSample(metainfo=meta) for meta in about(images)], rescale=False
        )
    return getattr(model, 'extract_feat', model)


def segmentor_macs(model: nn.Module, images: Tensor | Sequence[int], whole: bool = False) -> MacReport:
    """Counts the MACs of a model on its way at test time, see :func:`inference_path`.

    Args:
        model (nn.Module): On any device; on ``meta`` nothing is computed, which is enough for static token counts.
        images (Tensor | Sequence[int]): Normalised images ``(B, 3, H, W)``, or ``(H, W)`` of one blank image.
        whole (bool): Slide over the images if the model does so in a test. Defaults to False.
    """
    if not isinstance(images, Tensor):
        images = torch.zeros(1, 3, *images, device=next(model.parameters()).device)
    return count_macs(model, images, call=inference_path(model, whole))


def crop_macs(model: nn.Module, images: Tensor) -> tuple[MacReport, int]:
    """:func:`segmentor_macs` of whole images, and the number of crops that the model cut of each of them.

    Returns:
        tuple[MacReport, int]: The second is 1 for a model that does not slide.
    """
    crops = []

    def noting(original: Callable) -> Callable:

        def encode_decode(inputs, metas):
            crops.append(len(inputs))
            return original(inputs, metas)

        return encode_decode

    if not slides(model) or all(side <= crop for side, crop in zip(images.shape[2:], model.test_cfg.crop_size)):
        return segmentor_macs(model, images), 1
    with replaced(model, 'encode_decode', noting):
        report = segmentor_macs(model, images, whole=True)
    return report, sum(crops) // len(images)


def part_table(report: MacReport, model: nn.Module) -> list[tuple[str, int]]:
    """MACs by module, in the order of the model: stem, each block, reducer and restore of the backbone, neck, heads.

    Returns:
        list[tuple[str, int]]: Names and MACs, parts without any left out; the last row, ``rest``, is work outside of
        the named parts, so that they sum up to the total.
    """
    names = _part_names(model)
    restore = restore_name(model)
    if restore is not None:
        names.insert(
            1 + next(i for i, name in enumerate(names) if name == f'{restore[: -len("restore")]}reducer'), restore
        )
    rows = [(name, report.by_module.get(name, 0)) for name in names]
    rows.append(('rest', report.total - sum(macs for _, macs in rows)))
    return [row for row in rows if row[1]]


def _part_names(model: nn.Module, prefix: str = '') -> list[str]:
    names = []
    for name, child in model.named_children():
        if name == 'backbone':
            names += _part_names(child, f'{prefix}backbone.')
        elif isinstance(child, nn.ModuleList):
            names += [f'{prefix}{name}.{i}' for i in range(len(child))]
        else:
            names.append(prefix + name)
    return names


def model_parts(report: MacReport, model: nn.Module) -> dict[str, int]:
    """MACs by :data:`PARTS`, all of them, which sum up to the total.

    Of a backbone, lists and sequences of modules are its blocks, a sequence named ``stem`` excepted; ``reduce`` is the
    reducer, its own heads included, ``restore`` what undoes it, and the rest is the stem. Every child of the model
    that is neither backbone nor neck is a head. A model without a child ``backbone`` is taken for a backbone itself.
    """
    backbone = getattr(model, 'backbone', None)
    prefix = '' if backbone is None else 'backbone.'
    macs = report.by_module
    parts = dict.fromkeys(PARTS, 0)
    for name, child in (model if backbone is None else backbone).named_children():
        if name == 'reducer':
            parts['reduce'] += macs[prefix + name]
        elif isinstance(child, (nn.ModuleList, nn.Sequential)) and name != 'stem':
            parts['blocks'] += macs[prefix + name]
    parts['restore'] = macs.get(restore_name(model) or f'{prefix}restore', 0)
    parts['stem'] = macs[prefix.rstrip('.')] - parts['blocks'] - parts['reduce'] - parts['restore']
    if backbone is not None:
        for name, _ in model.named_children():
            if name != 'backbone':
                parts['neck' if name == 'neck' else 'heads'] += macs[name]
    parts['other'] = report.total - sum(parts.values())
    return parts
