"""Accuracy, multiply-adds and speed of settings of one model, kept point by point."""

import copy
import csv
import io
import itertools
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner.amp import autocast
from torch import Tensor, nn

from mmtoken.engine.checkpoints import check_checkpoint
from mmtoken.engine.configs import check_datasets, first_pictures, name_bad_files
from mmtoken.engine.digests import code_digest, data_digest, file_digest, joint
from mmtoken.engine.errors import UserError
from mmtoken.engine.files import locked, read_json, write_json, write_text
from mmtoken.engine.models import build_runner, build_validation, deploy, unwrap

from .counter import MacReport, count_macs
from .flops import cost_keys, inference_path, mean_report, over_pictures
from .latency import environment, interleave, paired_ratio, spread, whole_rounds
from .loading import dataset_input, spread_out
from .rivals import say
from .tasks import Metric

#: What decides the numbers of a config.
_SECTIONS = ('model', 'val_dataloader', 'val_evaluator', 'val_cfg', 'custom_hooks', 'default_scope')
_NEEDED = _SECTIONS[:4]
#: What validation does without.
_UNUSED = (
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'auto_scale_lr',
    'test_dataloader',
    'test_cfg',
    'test_evaluator',
)
#: Raised when MACs or seconds come to mean something else, so that those of older runs are not taken for them.
_RULES = 3
_MARGIN = {'': 'margin', ' low': 'low', ' high': 'high'}
#: Of the runners, which share a logger if they share a name.
_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Setting:
    """One point to measure.

    Args:
        name (str): As tables and plots show it.
        kind (str): ``dense``, ``reduced``, ``searched``, ``smaller input`` or ``smaller backbone``.
        cfg (Config): Its whole config.
        checkpoint (str): File of its weights.
        values (dict[str, Any]): The arguments that make it, by key.
    """

    name: str
    kind: str
    cfg: Config
    checkpoint: str
    values: dict[str, Any] = field(default_factory=dict)


class Contender:
    """A model on the validation set of its config, ready to be scored, counted and timed.

    Args:
        setting (Setting): Which.
        work_dir (Path): Folder of mmengine's logs.
        num (int, optional): Only the first so many images.
        pictures (int): Images to count and time on, spread over the set.
    """

    def __init__(self, setting: Setting, work_dir: Path, num: int | None, pictures: int):
        cfg = copy.deepcopy(setting.cfg)
        for key in _UNUSED:
            cfg[key] = None
        cfg.default_hooks = {**(cfg.get('default_hooks') or {}), 'checkpoint': None}  # it would save the best
        cfg.work_dir, cfg.launcher, cfg.log_level = str(work_dir), 'none', 'ERROR'
        cfg.load_from, cfg.resume = None, False
        cfg.experiment_name = f'{work_dir.name}_{next(_NUMBERS)}'
        if num:
            first_pictures(cfg, 'val_dataloader', num)
        name_bad_files(cfg)
        self.runner = build_runner(cfg)
        build_validation(self.runner)
        check_checkpoint(self.runner.model, setting.checkpoint)
        deploy(self.runner.model)
        self.model: nn.Module = unwrap(self.runner.model)
        self.model.eval()
        self.pictures = pictures

    def close(self) -> None:
        """Closes the files of the log, which mmengine holds open for as long as the program runs."""
        for handler in self.runner.logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.close()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @cached_property
    def inputs(self) -> list[Tensor]:
        """Images ``(1, 3, H, W)`` as the model gets them from its own pipeline."""
        dataset = self.runner.val_dataloader.dataset
        return [
            dataset_input(dataset, i, self.model, 'val_dataloader.dataset')
            for i in spread_out(range(len(dataset)), self.pictures)
        ]

    @torch.no_grad()
    def run(self, n: int) -> Any:
        """Sends picture n through the model as validation does: precision, sliding window and all."""
        with autocast(enabled=self.runner.val_loop.fp16):
            return inference_path(self.model, whole=True)(self.inputs[n])

    def macs(self) -> MacReport:
        """MACs and tokens, mean over the pictures."""
        return mean_report(over_pictures(self.model, self.inputs, lambda n: count_macs(self.model, n, call=self.run)))

    def differ(self) -> bool:
        """Whether the pictures differ in cost."""
        return len(set(cost_keys(self.model, self.inputs))) > 1

    def score(self) -> dict[str, float]:
        """Metrics on the validation set."""
        metrics = self.runner.val()
        return {key: float(value) for key, value in metrics.items() if isinstance(value, Real)}


class Tradeoff:
    """Measures settings against the dense model and writes each number down as soon as it is there.

    A number is known by all that decides it: config, weights, code, and the bytes of pictures and labels; of times the
    machine and the rounds too. What ``points.json`` in the work dir holds already is not measured again. Several runs
    may share a work dir.

    Args:
        work_dir (Path): Folder of the points and the logs.
        dense (Setting): What the others are compared with.
        num (int, optional): Only the first so many validation images.
        pictures (int): Images to count and time on. Defaults to 8.
        rounds (int): Timed runs of each model. Defaults to 10.
    """

    def __init__(self, work_dir: Path, dense: Setting, num: int | None = None, pictures: int = 8, rounds: int = 10):
        self.work_dir, self.dense, self.num, self.pictures, self.rounds = work_dir, dense, num, pictures, rounds
        self.path = work_dir / 'points.json'
        self.points: dict[str, dict] = read_json(self.path, {})
        about = environment('cuda' if torch.cuda.is_available() else 'cpu')
        self.machine = {key: about.get(key) for key in ('device', 'torch', 'threads')}
        self._data: dict[str, str] = {}
        self._contenders: dict[str, Contender] = {}
        for section in _NEEDED:
            if dense.cfg.get(section) is None:
                raise UserError(f'the config has no {section}, which scoring needs')
        check_datasets(dense.cfg, ['val'])

    def key(self, setting: Setting, stage: str) -> str:
        """Digest of all that decides the numbers of a stage, see :meth:`measure`."""
        if not Path(setting.checkpoint).is_file():
            raise UserError(f'checkpoint not found: {setting.checkpoint}')
        config = setting.cfg.to_dict()
        loader = json.dumps(config.get('val_dataloader'), sort_keys=True, default=str)
        if loader not in self._data:
            self._data[loader] = data_digest(setting.cfg, 'val')
        parts = [stage, {name: config.get(name) for name in _SECTIONS}, self.num, self._data[loader]]
        parts += [file_digest(setting.checkpoint), code_digest()]
        if stage != 'metrics':
            parts += [self.pictures, _RULES]
        if stage == 'seconds':
            parts += [self.rounds, self.machine, None if setting is self.dense else self.key(self.dense, stage)]
        return joint(parts)

    def contender(self, setting: Setting) -> Contender:
        """The model of a setting; beside the dense one only the last is kept."""
        key, dense = self.key(setting, 'metrics'), self.key(self.dense, 'metrics')
        if key not in self._contenders:
            for old in [k for k in self._contenders if k != dense]:
                self._contenders.pop(old).close()
            self._contenders[key] = Contender(setting, self.work_dir / 'logs', self.num, self.pictures)
        return self._contenders[key]

    def has(self, setting: Setting, *stages: str) -> bool:
        """Whether these numbers are there already."""
        return all(self.key(setting, stage) in self.points for stage in stages)

    def measure(self, setting: Setting, *stages: str) -> dict:
        """Returns the numbers of a setting.

        They are ``macs``, with what they ``missed``; ``seconds``, with ``dense_seconds`` and how many ``inputs`` of
        unlike cost took turns; ``metrics``, with ``images``.
        """
        found = {}
        for stage in stages:
            key = self.key(setting, stage)
            if key not in self.points:
                if stage == 'macs':
                    report = self.contender(setting).macs()
                    numbers = dict(macs=report.total, missed=report.missed)
                elif stage == 'metrics':
                    ours = self.contender(setting)
                    numbers = dict(metrics=ours.score(), images=len(ours.runner.val_dataloader.dataset))
                else:
                    numbers = self.time(setting)
                self.points[key] = dict(name=setting.name, **numbers)
                self.save()
            found.update(self.points[key])
        return found

    def time(self, setting: Setting) -> dict:
        """Seconds of a model and, in the same rounds, of the dense one; see :meth:`measure`."""
        models = dict(seconds=self.contender(setting), dense_seconds=self.contender(self.dense))
        if models['seconds'] is models['dense_seconds']:
            del models['dense_seconds']
        inputs = range(min(len(model.inputs) for model in models.values()))
        calls = {name: model.run for name, model in models.items()}
        unlike = len(inputs) if any(model.differ() for model in models.values()) else 1
        rounds = whole_rounds(self.rounds, unlike)
        seconds = interleave(calls, rounds, warmup=2, inputs=inputs, device=models['seconds'].device)
        return {'dense_seconds': seconds['seconds'], **seconds, 'inputs': unlike}

    def save(self) -> None:
        """Writes all points, beside those that another run has written meanwhile."""
        with locked(self.path):
            self.points = {**read_json(self.path, {}), **self.points}
            write_json(self.path, self.points)

    def speedup(self, setting: Setting) -> float:
        """How many times faster than the dense model."""
        point = self.measure(setting, 'seconds')
        return paired_ratio(point['dense_seconds'], point['seconds'], point['inputs'])['ratio']

    def mac_speedup(self, setting: Setting) -> float:
        """How many times fewer MACs than the dense model."""
        return self.measure(self.dense, 'macs')['macs'] / self.measure(setting, 'macs')['macs']

    def metrics(self, setting: Setting) -> dict[str, float]:
        """All metrics of a setting; nan where the evaluator gives none, as mmdet's for a model that finds nothing."""
        names = self.measure(self.dense, 'metrics')['metrics']
        return dict.fromkeys(names, math.nan) | self.measure(setting, 'metrics')['metrics']

    def score(self, setting: Setting, metric: str) -> float:
        """A metric of a setting.

        Raises:
            UserError: If the evaluator of the config has no such metric.
        """
        metrics = self.metrics(setting)
        if metric not in metrics:
            given = ', '.join(metrics) or 'nothing, since the dense model finds nothing on these pictures'
            raise UserError(f'--metric {metric}: val_evaluator gives {given}')
        return metrics[metric]

    def row(self, setting: Setting) -> dict:
        """Returns all numbers of a setting, named as ``tools/analysis_tools/benchmark.py`` names them.

        Its verdict comes from :func:`~mmtoken.analysis.rivals.judge_rows`.
        """
        point = self.measure(setting, 'macs', 'seconds', 'metrics')
        speedup = paired_ratio(point['dense_seconds'], point['seconds'], point['inputs'])
        saved = self.mac_speedup(setting)
        return dict(
            name=setting.name,
            kind=setting.kind,
            values=setting.values,
            images=point['images'],
            first_only=bool(self.num),
            metrics=self.metrics(setting),
            batch=1,
            macs=point['macs'],
            missed=point['missed'],
            mac_ratio=1 / saved,
            ms_per_image={key: value * 1000 for key, value in spread(point['seconds']).items()},
            speedup=speedup,
            efficiency=speedup['ratio'] / saved,
            seconds=point['seconds'],
            dense_seconds=point['dense_seconds'],
            verdict=None,
        )


def describe(row: dict, dense: dict, metric: Metric) -> str:
    """One line about a row."""
    value, speedup, ms = row['metrics'][metric.name], row['speedup'], row['ms_per_image']['median']
    digits = metric.digits(dense['metrics'][metric.name])
    return (
        f'{metric.name} {value:.{digits}f} ({value - dense["metrics"][metric.name]:+.{digits}f}) on {images_of(row)}, '
        f'{row["macs"] / 1e9:.3g} GMACs (×{row["mac_ratio"]:.2f}), {ms:.{0 if ms >= 100 else 2}f} ms, '
        f'speed-up {speedup["ratio"]:.2f} ({speedup["low"]:.2f}-{speedup["high"]:.2f})'
        + (f'; {say(row["verdict"], metric)}' if row['verdict'] else '')
    )


def images_of(row: dict) -> str:
    """Which images a row was scored on."""
    return f'the first {row["images"]} images only' if row['first_only'] else f'{row["images"]} images'


def write_csv(path: Path, rows: Sequence[dict], metric: Metric) -> None:
    """Writes rows, the dense one first, as a table; ``worse by`` is a loss whichever way the metric goes."""
    base = rows[0]['metrics'][metric.name]
    lines = []
    for row in rows:
        value, speedup, found = row['metrics'][metric.name], row['speedup'], row['verdict'] or {}
        numbers = {
            metric.name: value,
            'delta': value - base,
            'worse by': metric.loss(value, base),
            'GMACs': row['macs'] / 1e9,
            'MACs ratio': row['mac_ratio'],
            'ms': row['ms_per_image']['median'],
            'speed-up': speedup['ratio'],
            'speed-up low': speedup['low'],
            'speed-up high': speedup['high'],
            'speed-up / MAC speed-up': row['efficiency'],
            **{f'over smaller input{end}': found.get(key) for end, key in _MARGIN.items()},
        }
        line = {'name': row['name'], 'kind': row['kind'], 'images': images_of(row)}
        line |= {key: '' if number is None else f'{number:.4f}' for key, number in numbers.items()}
        lines.append(line | {'verdict': found.get('verdict', '')})
    file = io.StringIO(newline='')
    writer = csv.DictWriter(file, lines[0])
    writer.writeheader()
    writer.writerows(lines)
    write_text(path, file.getvalue())
