"""How several models are timed against each other: what a call is, what it needs, and where one overtakes another."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtoken.engine.errors import UserError
from mmtoken.engine.models import check_compilable

from .counter import MacReport, count_macs
from .flops import cost_varies, inference_path, mean_report, over_pictures, segmentor_macs
from .latency import interleave, paired_ratio, spread, whole_rounds
from .loading import quiet_log
from .rivals import smaller_size
from .synthetic import synthetic_samples

DTYPES = dict(fp16=torch.float16, bf16=torch.bfloat16)


@dataclass
class Bench:
    """Models and how they run.

    Args:
        models (dict[str, nn.Module]): By name, the baseline first; on ``device`` already.
        device (str): ``cpu``, ``cuda`` or ``cuda:N``.
        amp (str, optional): ``fp16`` or ``bf16``, for autocast.
        compile (bool): ``torch.compile`` each of them.
        cuda_graph (bool): Replay each as a CUDA graph; static models only.
        optimizers (dict[str, dict], optional): ``optim_wrapper`` config of each, to time training steps instead of
            predictions.
        patch (int): Pixels that the sides of smaller pictures are multiples of, see :meth:`add_smaller`.

    Raises:
        UserError: If they cannot run so.
    """

    models: dict[str, nn.Module]
    device: str = 'cpu'
    amp: str | None = None
    compile: bool = False
    cuda_graph: bool = False
    optimizers: dict[str, dict] | None = None
    patch: int = 16
    #: Parts of the picture's sides, by name of a model that gets smaller ones.
    smaller: dict[str, float] = field(default_factory=dict, init=False)

    def __post_init__(self):
        if self.cuda_graph and torch.device(self.device).type != 'cuda':
            raise UserError(f'--cuda-graph needs a GPU, not --device {self.device}')
        if self.cuda_graph and self.optimizers:
            raise UserError('--cuda-graph replays predictions; leave it out with --train')
        for model in self.models.values() if self.compile else ():
            check_compilable(model)
        varying = [name for name, model in self.models.items() if cost_varies(model)]
        if self.cuda_graph and varying:
            raise UserError(
                f'--cuda-graph needs the same work for each picture, and that of {varying[0]} depends on '
                'what it sees; leave out the one or the other'
            )
        self.varies = bool(varying)
        self.baseline = next(iter(self.models))
        self.states: dict[str, dict] = {}  # of the optimizers
        self.steps = {name: self._step(name, model) for name, model in self.models.items()}

    def _step(self, name: str, model: nn.Module) -> Callable[[Tensor], Any]:
        """What is timed: a prediction or a training step on normalised images ``(B, C, H, W)``."""
        model.train(self.optimizers is not None)
        run = (
            torch.compile(model.loss if self.optimizers else inference_path(model))
            if self.compile
            else model.loss
            if self.optimizers
            else inference_path(model)
        )
        kind, dtype = torch.device(self.device).type, DTYPES.get(self.amp)

        def predict(images: Tensor) -> Any:
            with torch.no_grad(), torch.autocast(kind, dtype, enabled=dtype is not None):
                return run(images)

        if not self.optimizers:
            return _Graphs(name, predict) if self.cuda_graph else predict
        if not self.optimizers[name]:
            raise UserError(f'--train: the config of {name} has no optim_wrapper; name its optimizer there')
        wrapper = _optimizer(model, self.optimizers[name], self.amp if kind == 'cuda' else None)
        self.states[name], samples = wrapper.optimizer.state, {}

        def train(images: Tensor) -> None:
            shape = tuple(images.shape)
            if shape not in samples:
                samples[shape] = synthetic_samples(model, shape[0], shape[2:], self.device)
            try:
                with torch.autocast(kind, dtype, enabled=dtype is not None):
                    losses = run(images, samples[shape])
            except ValueError as error:
                if 'more than 1 value per channel' not in str(error):
                    raise
                raise UserError(
                    f'--train: a batch normalisation of {name} needs more than one picture; give --batch 2 or more'
                ) from error
            wrapper.update_params(model.parse_losses(losses)[0])

        return train

    def add_smaller(self, factors: Sequence[float], images: Tensor, report: Callable[[str], Any]) -> None:
        """Adds the baseline on smaller pictures, which are resized before the clock starts.

        Args:
            factors (Sequence[float]): Parts of the picture's sides.
            images (Tensor): ``(N, C, H, W)``; one of them is tried at each size.
            report (Callable): Gets a line about a size that the model does not run at; it is left out.
        """
        for factor in factors:
            name, model = f'{self.baseline}, ×{factor:g} input', self.models[self.baseline]
            self.smaller[name] = factor
            try:
                with torch.no_grad():
                    inference_path(model)(self.pictures(name, images[:1]))
            except (AssertionError, RuntimeError, ValueError) as error:
                del self.smaller[name]
                report(f'{name}: left out, the model does not run at this size ({str(error).splitlines()[0]})')
                continue
            self.models[name] = model
            if self.optimizers:
                self.optimizers[name] = self.optimizers[self.baseline]
            self.steps[name] = self._step(name, model)

    def pictures(self, name: str, images: Tensor) -> Tensor:
        """Returns the images as a model gets them: all of them as they are, but for those of :attr:`smaller`."""
        if name not in self.smaller:
            return images
        size = smaller_size(images.shape[2:], self.smaller[name], self.patch)
        return F.interpolate(images, size, mode='bilinear', antialias=True)

    def count(self, name: str, images: Tensor) -> MacReport:
        """MACs of a prediction, or of the forward half of a training step, on some images."""
        model = self.models[name]
        if not self.optimizers:
            return segmentor_macs(model, images)
        samples = synthetic_samples(model, len(images), tuple(images.shape[2:]), self.device)
        return count_macs(model, images, call=lambda x: model.loss(x, samples), training=True)

    def costs(self, images: Tensor) -> dict[str, MacReport]:
        """MACs and tokens of each model a picture, mean over the pictures."""
        size = 2 if self.optimizers else 1  # a batch normalisation that trains needs more than one value a channel
        found = {}
        for name, model in self.models.items():
            inputs = batches(self.pictures(name, images), size, self.varies)
            reports = over_pictures(model, inputs, lambda n, name=name, inputs=inputs: self.count(name, inputs[n]))
            found[name] = mean_report(reports, size)
        return found

    def rounds(self, images: Tensor, batch: int, wanted: int) -> int:
        """How often each model is timed: as often as wanted, or more where pictures differ in cost."""
        return whole_rounds(wanted, self.strata(batches(images, batch, self.varies)))

    def strata(self, inputs: Sequence) -> int:
        """Inputs that may differ in cost; the pictures have one size."""
        return len(inputs) if self.varies else 1

    def measure(
        self,
        images: Tensor,
        batch: int,
        rounds: int,
        warmup: int,
        macs: dict[str, MacReport],
        progress: Callable[[], Any] = lambda: None,
    ) -> list[dict]:
        """Times all models in turns on batches of the images.

        Args:
            images (Tensor): ``(N, C, H, W)``, see :func:`batches`.
            batch (int): Images of a call.
            rounds (int): Samples of each model, at least; see :meth:`rounds`.
            warmup (int): Untimed calls of each before.
            macs (dict[str, MacReport]): Of :meth:`costs`.
            progress (Callable): See :func:`~mmtoken.analysis.latency.interleave`.

        Returns:
            list[dict]: A row for each model: ``name``, ``batch``, ``ms_per_image`` (``median``, ``p5``, ``p95``),
            ``images_per_second``, ``speedup`` (``ratio``, ``low``, ``high``), ``macs`` a picture, ``mac_ratio``,
            ``efficiency`` (speed-up ÷ MAC speed-up), ``peak_memory`` in bytes, ``seconds``.
        """
        inputs = {name: batches(self.pictures(name, images), batch, self.varies) for name in self.models}
        places = range(len(inputs[self.baseline]))
        rounds, strata = self.rounds(images, batch, rounds), self.strata(places)
        calls = {name: lambda n, name=name, step=step: step(inputs[name][n]) for name, step in self.steps.items()}
        seconds = interleave(calls, rounds, warmup, inputs=places, device=self.device, progress=progress)
        rows = []
        for name, samples in seconds.items():
            milliseconds = {key: value * 1000 / batch for key, value in spread(samples).items()}
            speedup = paired_ratio(seconds[self.baseline], samples, strata)
            ratio = macs[name].total / macs[self.baseline].total
            rows.append(
                dict(
                    name=name,
                    batch=batch,
                    ms_per_image=milliseconds,
                    images_per_second=1000 / milliseconds['median'],
                    speedup=speedup,
                    macs=macs[name].total,
                    mac_ratio=ratio,
                    efficiency=speedup['ratio'] * ratio,
                    peak_memory=self.peak_memory(name, inputs[name][0]),
                    seconds=samples,
                )
            )
        return rows

    def peak_memory(self, name: str, images: Tensor) -> int:
        """Returns the most bytes that a model holds during a call.

        These are its weights, its optimizer's state if it trains, and what torch allocates meanwhile.

        On CUDA as the allocator of torch counts it, on the CPU as its profiler sees it. Memory of the other models
        that are loaded is left out, the images too. A CUDA graph is not replayed but run.
        """
        model, step = self.models[name], self.steps[name]
        step = step.call if isinstance(step, _Graphs) else step
        state = [t for one in self.states.get(name, {}).values() for t in one.values() if isinstance(t, Tensor)]
        resident = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers(), *state])
        if torch.device(self.device).type == 'cuda':
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            step(images)
            torch.cuda.synchronize()
            return resident + torch.cuda.max_memory_allocated(self.device) - before
        return resident + _peak_on_the_cpu(lambda: step(images))


def batches(images: Tensor, batch: int, equally: bool) -> tuple[Tensor, ...]:
    """As few whole batches as it takes for each of the images ``(N, C, H, W)`` to come at all, or equally often."""
    number = math.lcm(len(images), batch) if equally else math.ceil(len(images) / batch) * batch
    return images[torch.arange(number) % len(images)].split(batch)


class _Graphs:
    """A call as CUDA graphs, one for each shape of its images; captured at the first call, which is a warm-up's."""

    def __init__(self, name: str, call: Callable[[Tensor], Any]):
        self.name, self.call, self.graphs = name, call, {}

    def __call__(self, images: Tensor) -> Any:
        if images.shape not in self.graphs:
            self.graphs[images.shape] = self.capture(images)
        graph, buffer, out = self.graphs[images.shape]
        buffer.copy_(images)
        graph.replay()
        return out

    def capture(self, images: Tensor) -> tuple:
        buffer, graph = images.clone(), torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):  # workspaces are made, and kernels chosen, outside of the graph
                self.call(buffer)
        torch.cuda.current_stream().wait_stream(aside)
        try:
            with torch.cuda.graph(graph):
                out = self.call(buffer)
        except RuntimeError as error:
            raise UserError(
                f'--cuda-graph: {self.name} cannot be captured ({str(error).splitlines()[0]}); leave --cuda-graph out'
            ) from error
        return graph, buffer, out


def _optimizer(model: nn.Module, cfg: dict, amp: str | None):
    """The optimizer wrapper of a config, with the precision that was asked for on a GPU, and no accumulation."""
    from mmengine.optim import build_optim_wrapper

    kept = {key: cfg[key] for key in ('optimizer', 'paramwise_cfg', 'clip_grad', 'constructor') if cfg.get(key)}
    # fp16 needs its losses scaled; bf16 does not, and autocast is ours
    kept['type'] = 'AmpOptimWrapper' if amp == 'fp16' else 'OptimWrapper'
    with quiet_log():
        return build_optim_wrapper(model, kept)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hides what C++ code writes to stderr; the profiler greets and takes leave there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _peak_on_the_cpu(call: Callable[[], Any]) -> int:
    """Bytes of torch's CPU allocator at the height of a call, above those before it."""
    from torch.profiler import ProfilerActivity, profile

    with _quiet_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def break_even(tokens: Sequence[float], ratios: Sequence[float]) -> float | None:
    """Token count from which on a method is faster than the baseline.

    Args:
        tokens (Sequence[float]): Tokens of the baseline at each size, rising.
        ratios (Sequence[float]): Speed-up of the method there.

    Returns:
        float | None: Between the last size at which it is slower and the next, by a straight line through both; the
        smallest size if it is slower at none; None if it is slower at the largest.
    """
    slower = [i for i, ratio in enumerate(ratios) if ratio < 1]
    if not slower:
        return tokens[0]
    last = slower[-1]
    if last == len(ratios) - 1:
        return None
    part = (1 - ratios[last]) / (ratios[last + 1] - ratios[last])
    return tokens[last] + part * (tokens[last + 1] - tokens[last])


def break_even_points(rows: Sequence[dict], baseline: str) -> list[dict]:
    """:func:`break_even` of each model at each batch size.

    Args:
        rows (Sequence[dict]): Of :meth:`Bench.measure`, with the baseline's ``tokens``, the smallest image first.
        baseline (str): Name of the baseline.

    Returns:
        list[dict]: ``name``, ``batch``, ``tokens`` (None if it never wins), ``text``.
    """
    points = []
    for name, batch in dict.fromkeys((row['name'], row['batch']) for row in rows if row['name'] != baseline):
        own = [row for row in rows if (row['name'], row['batch']) == (name, batch)]
        counts = [row['tokens'] for row in own]
        tokens = break_even(counts, [row['speedup']['ratio'] for row in own])
        if tokens is None:
            text = f'slower up to {counts[-1]} tokens'
        elif tokens == counts[0]:
            text = f'faster at every size, from {counts[0]} tokens on'
        else:
            text = f'faster from about {tokens:.0f} tokens on'
        points.append(dict(name=name, batch=batch, tokens=tokens, text=f'{name}, batch {batch}: {text}'))
    return points


def ladder(shape: tuple[int, int], patch: int, sides: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Image sizes of the aspect ratio of ``shape``, in whole patches, rising.

    Args:
        shape (tuple[int, int]): ``(H, W)`` in pixels.
        patch (int): Side of a patch in pixels.
        sides (Sequence[int]): Heights in pixels; a quarter to one and a half of ``shape`` if empty.
    """
    sides = sides or [shape[0] * part for part in (0.25, 0.375, 0.5, 0.75, 1, 1.5)]
    return sorted({tuple(max(1, round(side * edge / shape[0] / patch)) * patch for edge in shape) for side in sides})
