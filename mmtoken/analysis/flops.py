"""What a whole model costs at test time, in multiply-adds, and which of its parts."""

import statistics
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .counter import MacReport, Seen, count_macs, restore_name
from .tasks import task_of

#: In the order of the work; ``other`` is work of the model itself, outside of its children.
PARTS = ('stem', 'blocks', 'reduce', 'restore', 'neck', 'heads', 'other')


def is_dynamic(model: nn.Module) -> bool:
    """Whether the number of tokens depends on the picture."""
    return any(getattr(module, 'dynamic', False) for module in model.modules())


def cost_varies(model: nn.Module) -> bool:
    """Whether the cost of a model may depend on what is in a picture, and not on its size alone."""
    return is_dynamic(model) or task_of(model).varies


def cost_keys(model: nn.Module, inputs: Sequence[Tensor]) -> list[Hashable]:
    """A key for each input; those with the same key cost a model the same."""
    varies = cost_varies(model)
    return [n if varies else tuple(images.shape) for n, images in enumerate(inputs)]


def over_pictures(model: nn.Module, inputs: Sequence[Tensor], count: Callable[[int], MacReport]) -> list[MacReport]:
    """Returns what a count finds on each input, after a first call that is not counted.

    Work that a model does once and keeps, such as the text encoder's, is not a picture's; what the first call had more
    is :attr:`MacReport.once` of the first report. Of inputs that cost the same one is counted.

    Args:
        model (nn.Module): That is counted.
        inputs (Sequence[Tensor]): Images ``(B, C, H, W)``.
        count (Callable): Gets the place of an input.
    """
    first = count(0).total
    known: dict[Hashable, MacReport] = {}
    keys = cost_keys(model, inputs)
    for n, key in enumerate(keys):
        if key not in known:
            known[key] = count(n)
    known[keys[0]].once = first - known[keys[0]].total
    return [known[key] for key in keys]


def mean_report(reports: Sequence[MacReport], batch: int = 1) -> MacReport:
    """Total and tokens a picture, mean over reports of ``batch`` pictures each; what none of them counted, summed."""
    return MacReport(
        total=statistics.mean(report.total for report in reports) / batch,
        uncounted=sum_uncounted(reports),
        tokens=[statistics.mean(block) for block in zip(*(report.tokens for report in reports))],
        once=reports[0].once,
    )


def sum_uncounted(reports: Sequence[MacReport]) -> dict[str, Seen]:
    """Calls and elements of what has no formula, over all reports."""
    total: dict[str, Seen] = {}
    for name, seen in (item for report in reports for item in report.uncounted.items()):
        total[name] = Seen(*(a + b for a, b in zip(seen, total.get(name, (0, 0)))))
    return total


def inference_path(model: nn.Module, whole: bool = False) -> Callable[[Tensor], Any]:
    """Returns what a model does to normalised images in a test, see :meth:`mmtoken.analysis.tasks.Task.run`."""
    return task_of(model).run(model, whole)


def image_channels(model: nn.Module) -> int:
    """Returns the channels of a model's pictures: those that its first convolution takes, 3 if it has none."""
    modules = getattr(model, 'backbone', model).modules()
    first = next((m for m in modules if isinstance(m, nn.modules.conv._ConvNd)), None)
    return first.in_channels if first is not None else 3


def segmentor_macs(model: nn.Module, images: Tensor | Sequence[int], whole: bool = False) -> MacReport:
    """Counts the MACs of a model on its way at test time, see :func:`inference_path`.

    Args:
        model (nn.Module): On any device; on ``meta`` nothing is computed, which is enough for static token counts.
        images (Tensor | Sequence[int]): Normalised images ``(B, C, H, W)``, or ``(H, W)`` of one blank image.
        whole (bool): Slide over the images if the model does so in a test. Defaults to False.
    """
    if not isinstance(images, Tensor):
        images = torch.zeros(1, image_channels(model), *images, device=next(model.parameters()).device)
    return count_macs(model, images, call=inference_path(model, whole))


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
