"""Latency of several models against each other, measured so that a drifting machine cannot favour one of them."""

import gc
import math
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

#: Distributions that may bring what is timed; the forks' names too.
_PACKAGES = (
    'mmtoken',
    'mmengine',
    'mmcv',
    'mmcv-lite',
    'mmsegmentation',
    'mmdet',
    'mmpretrain',
    'onedl-mmengine',
    'onedl-mmcv',
    'onedl-mmsegmentation',
    'onedl-mmdetection',
    'timm',
    'torchvision',
    'onnxruntime',
)


def interleave(
    calls: Mapping[str, Callable],
    rounds: int = 20,
    warmup: int = 3,
    *,
    inputs: Sequence[Any] | None = None,
    device: str | torch.device = 'cpu',
    progress: Callable[[], Any] = lambda: None,
) -> dict[str, list[float]]:
    """Times calls round-robin: every call once a round; the call that starts rotates per round and per input.

    A clock that slows down or a neighbour that wakes up meets all of them alike, and the n-th samples of two calls are
    a pair, see :func:`paired_ratio`. Garbage is collected between rounds, never in a sample.

    Args:
        calls (Mapping[str, Callable]): What to time, by name.
        rounds (int): Samples of each. Defaults to 20.
        warmup (int): Untimed calls of each beforehand. Defaults to 3.
        inputs (Sequence, optional): Argument of the calls, ``inputs[n % len(inputs)]`` in round n, the same for all;
            none by default.
        device (str | torch.device): Where the work is done. On CUDA the samples are taken by events in the stream.
        progress (Callable): Called after each call, outside of the samples; ``(rounds + warmup) * len(calls)`` times.

    Returns:
        dict[str, list[float]]: ``rounds`` samples by name, in seconds.

    Raises:
        ValueError: If there is nothing to time.
    """
    if not calls or rounds < 1:
        raise ValueError('interleave() needs at least one call and rounds >= 1.')
    sample = _sample_cuda if torch.device(device).type == 'cuda' else _sample_cpu
    arguments = [()] if inputs is None else [(one,) for one in inputs]
    names = list(calls)
    for name in names:
        for n in range(warmup):
            calls[name](*arguments[n % len(arguments)])
            progress()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.disable()
    gc.collect()
    gc.freeze()  # what is there already need not be looked through in every round
    try:
        for n in range(rounds):
            gc.collect()
            start = (n % len(arguments) + n // len(arguments)) % len(names)
            for name in names[start:] + names[:start]:
                seconds[name].append(sample(calls[name], arguments[n % len(arguments)]))
                progress()
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
    return seconds


def _sample_cpu(call: Callable, args: tuple) -> float:
    start = time.perf_counter()
    call(*args)
    return time.perf_counter() - start


def _sample_cuda(call: Callable, args: tuple) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    call(*args)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and the 5th and 95th percentile of samples, as ``median``, ``p5``, ``p95``."""
    cuts = statistics.quantiles(seconds, n=20, method='inclusive') if len(seconds) > 1 else [seconds[0]] * 19
    return dict(median=statistics.median(seconds), p5=cuts[0], p95=cuts[-1])


def whole_rounds(rounds: int, inputs: int) -> int:
    """Returns ``rounds`` rounded up to a multiple of ``inputs``, so that each input comes equally often.

    Each comes at least twice, since one sample has no spread.
    """
    return rounds if inputs == 1 else max(2, math.ceil(rounds / inputs)) * inputs


def paired_ratio(
    base: Sequence[float], other: Sequence[float], inputs: int = 1, resamples: int = 1000
) -> dict[str, float]:
    """How many times faster ``other`` is than ``base``, from samples that were taken in turns.

    It is the time of the baseline on all inputs over that of the other. On one input the ratio is the median over its
    rounds of base / other; over several, the mean of theirs, weighted by the median time that the other takes for each,
    so that it may be compared with a ratio of mean MACs.

    Args:
        base (Sequence[float]): Seconds of the baseline, one a round.
        other (Sequence[float]): Seconds of the other in the same rounds.
        inputs (int): Inputs that differ in cost; round n ran on number ``n % inputs``. Defaults to 1.
        resamples (int): Bootstrap resamples of the rounds of each input, for the 95 % interval. Defaults to 1000.

    Returns:
        dict[str, float]: ``ratio`` and its interval ``low`` to ``high``.

    Raises:
        ValueError: If the samples are not pairs, or not equally many of each input.
    """
    pairs = list(zip(base, other, strict=True))
    if len(pairs) % inputs:
        raise ValueError(f'{len(pairs)} samples are not equally many of each of {inputs} inputs.')
    groups = [pairs[n::inputs] for n in range(inputs)]

    def ratio(groups: Sequence[Sequence[tuple[float, float]]]) -> float:
        weights = [statistics.median(o for _, o in group) for group in groups]
        ratios = [statistics.median(b / o for b, o in group) for group in groups]
        return sum(w * r for w, r in zip(weights, ratios)) / sum(weights) if inputs > 1 else ratios[0]

    draw = random.Random(0)
    found = sorted(ratio([draw.choices(group, k=len(group)) for group in groups]) for _ in range(resamples))
    return dict(ratio=ratio(groups), low=found[int(0.025 * resamples)], high=found[int(0.975 * resamples)])


def environment(device: str | torch.device = 'cpu') -> dict[str, Any]:
    """What a latency means nothing without: the machine, its threads, and the version of everything that runs."""
    device = torch.device(device)
    versions = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    if device.type == 'cuda':
        name = torch.cuda.get_device_name(device)
        versions.update(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    else:
        cpuinfo = Path('/proc/cpuinfo')
        lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
        models = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
        name = models[0] if models else platform.processor() or platform.machine()
    return dict(
        device=name,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        versions=versions,
    )
