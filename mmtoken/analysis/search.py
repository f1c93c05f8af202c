"""Search of a method's own arguments for a target: the least loss at a speed, or the most speed at a loss."""

import hashlib
import keyword
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import optuna
from mmengine.config import Config
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from mmtoken.core import HostInfo, Reducer, ReducerSequence
from mmtoken.engine.errors import UserError
from mmtoken.engine.files import write_json, write_text

from .loading import read_config
from .rivals import judge_rows
from .tasks import Metric
from .tradeoff import Setting, Tradeoff, describe
from .variants import with_settings

#: Trials whose MACs promise less than this part of the speed that is needed are not even timed.
HOPELESS = 0.8
#: Added to the value of trials that miss the target, so that any that meets it is better.
PENALTY = 1e6


def draw(trial: Any, key: str, values: Any) -> Any:
    """One value out of a description, see :meth:`mmtoken.core.Reducer.search_space`.

    Args:
        trial (optuna.Trial): That suggests it.
        key (str): Name of the argument.
        values (tuple | list): Its description.
    """
    if isinstance(values, list):
        texts = [repr(value) for value in values]  # storages keep texts and numbers only
        return values[texts.index(trial.suggest_categorical(key, texts))]
    if any(isinstance(value, (tuple, list)) for value in values):
        return [draw(trial, f'{key}.{i}', value) for i, value in enumerate(values)]
    low, high = values
    return trial.suggest_int(key, low, high) if isinstance(low, int) else trial.suggest_float(key, low, high)


def declared_space(reducer: Reducer, host: HostInfo) -> dict[str, Any]:
    """What the methods of a model declare, by key under ``model.backbone``."""
    parts = {'reducer': reducer}
    if isinstance(reducer, ReducerSequence):
        parts = {f'reducer.{i}': part for i, part in enumerate(reducer.reducers)}
    return {
        f'{name}.{argument}': values
        for name, part in parts.items()
        for argument, values in part.search_space(host).items()
    }


@dataclass(frozen=True)
class Goal:
    """Either of the two.

    Args:
        speedup (float, optional): Least loss among settings that are at least so many times faster.
        drop (float, optional): Fastest among settings that lose at most so much of the metric and are faster than the
            dense model.
        metric (Metric): Which one, and what of it is better. Defaults to ``mIoU``.
    """

    speedup: float | None = None
    drop: float | None = None
    metric: Metric = field(default_factory=lambda: Metric('mIoU'))

    def __str__(self) -> str:
        return (
            f'speed-up of at least {self.speedup:g}'
            if self.drop is None
            else f'speed-up with a loss of at most {self.drop:g} {self.metric.name}'
        )

    def reached(self, speedup: float, drop: float) -> bool:
        """Whether a setting with these does it."""
        return speedup >= self.speedup if self.drop is None else speedup > 1 and drop <= self.drop


def judge(tradeoff: Tradeoff, setting: Setting, goal: Goal, best: float) -> tuple[float, bool, str]:
    """Measures as much of a setting as it takes to rank it.

    Args:
        tradeoff (Tradeoff): That measures.
        setting (Setting): Which.
        goal (Goal): What it is to reach.
        best (float): With ``goal.drop``: the speed-up of the best one so far that reaches it, or 1.

    Returns:
        tuple[float, bool, str]: Rank, lower is better; whether it reaches the goal; what was found, in words.
    """
    needed = goal.speedup or best
    promised = tradeoff.mac_speedup(setting)
    if promised < HOPELESS * needed:
        rank = PENALTY + needed - promised if goal.speedup else -promised
        return rank, False, f'dropped, MACs promise {promised:.2f}, far below {needed:.2f}: not timed, not scored'
    faster = tradeoff.speedup(setting)
    if faster < needed:
        rank = PENALTY + needed - faster if goal.speedup else -faster
        return rank, False, f'speed-up {faster:.2f}, below {needed:.2f}: not scored'
    metric = goal.metric
    value, dense = tradeoff.score(setting, metric.name), tradeoff.score(tradeoff.dense, metric.name)
    drop = metric.loss(value, dense)
    if isnan(drop):  # as where it finds nothing; optuna takes no nan
        return 2 * PENALTY, False, f'speed-up {faster:.2f}, {metric.name} is undefined'
    found = f'speed-up {faster:.2f}, {metric.name} {value - dense:+.{metric.digits(dense)}f}'
    if goal.speedup:
        return drop, True, found
    return (PENALTY + drop, False, f'{found}, loses too much') if drop > goal.drop else (-faster, True, found)


def search(
    tradeoff: Tradeoff,
    cfg: Config,
    checkpoint: str,
    space: dict[str, Any],
    goal: Goal,
    trials: int,
    report: Callable[[str], None],
) -> tuple[Setting | None, list[Setting]]:
    """Looks for the best setting.

    The state lies in the work dir: the same search goes on where it stopped, and since every proposal is seeded by the
    number of finished trials, it proposes what an unbroken one would have.

    Args:
        tradeoff (Tradeoff): That measures.
        cfg (Config): Of the accelerated model.
        checkpoint (str): Its weights.
        space (dict[str, Any]): Descriptions by key, see :func:`draw`.
        goal (Goal): What to reach.
        trials (int): How many settings to try, those of earlier runs included.
        report (Callable): Gets a line about each trial.

    Returns:
        tuple[Setting | None, list[Setting]]: The best, None if none reaches the goal; and all that were scored.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base = Setting('config', 'searched', cfg, checkpoint)
    name = repr([str(goal), sorted(space.items()), tradeoff.key(base, 'seconds')])
    tradeoff.work_dir.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(tradeoff.work_dir / 'search.journal')))
    kept = optuna.create_study(
        study_name=hashlib.sha256(name.encode()).hexdigest()[:16], storage=storage, load_if_exists=True
    )
    while (number := len(done := kept.trials)) < trials:
        # Asked in memory and kept when finished: a trial that was killed half-way would change later proposals.
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=number))
        study.add_trials(done)
        trial = study.ask()
        values = {key: draw(trial, key, described) for key, described in space.items()}
        setting = searched(cfg, checkpoint, values)
        best = max((-t.value for t in done if t.user_attrs['reached']), default=1.0)
        try:
            rank, reached, found = judge(tradeoff, setting, goal, best)
        except (TypeError, ValueError, UserError) as error:  # arguments that do not go together
            if tradeoff.has(setting, 'macs'):
                raise
            rank, reached, found = 2 * PENALTY, False, f'refused: {error}'
        for key, value in dict(values=values, reached=reached).items():
            trial.set_user_attr(key, value)
        study.tell(trial, rank)
        kept.add_trial(study.trials[-1])
        report(f'trial {number + 1} of {trials}: {setting.name}: {found}')

    settings = [searched(cfg, checkpoint, t.user_attrs['values']) for t in done]
    scored = [s for s in settings if tradeoff.has(s, 'macs', 'seconds', 'metrics')]
    reached = [(t.value, s) for t, s in zip(done, settings) if t.user_attrs['reached']]
    return min(reached, key=lambda pair: pair[0])[1] if reached else None, scored


def searched(cfg: Config, checkpoint: str, values: dict[str, Any]) -> Setting:
    """The setting of a trial."""
    short = {key.removeprefix('reducer.'): value for key, value in values.items() if value is not None}
    name = ', '.join(
        f'{key}={value:.3g}' if isinstance(value, float) else f'{key}={value}' for key, value in short.items()
    )
    return Setting(name, 'searched', with_settings(cfg, values), checkpoint, values)


def overrides(base: dict, wanted: dict) -> dict:
    """What a config over ``base`` has to say to be ``wanted``, which keeps its top level keys."""
    out = {}
    for key, value in wanted.items():
        if key not in base:
            out[key] = value
        elif value != base[key]:
            old = base[key]
            if isinstance(value, dict) and isinstance(old, dict) and set(old) <= set(value):
                value = overrides(old, value)
            elif isinstance(value, dict):
                value = dict(_delete_=True, **value)
            out[key] = value
    return out


def write_config(path: Path, base: Path, cfg: Config, lines: list[str]) -> None:
    """Writes a config that derives from ``base`` and is ``cfg``, its reducer in full, under comment lines."""
    wanted, origin = cfg.to_dict(), read_config(base).to_dict()
    origin['model']['backbone']['reducer'] = None  # unlike any
    changes = overrides(origin, wanted)
    source = str(base) if '::' in str(base) else base.resolve().as_posix()  # a package's, or a file
    comments = ''.join(f'# {line}\n' for line in lines)
    body = ''.join(f'{key} = {as_text(value)}\n' for key, value in changes.items())
    write_text(path, f'{comments}_base_ = {source!r}\n{body}')


def write_found(config: Path, tradeoff: Tradeoff, best: Setting, goal: Goal, rows: list[dict]) -> None:
    """Writes ``found.py``, the config of the best setting, and measures it on the whole validation set.

    Args:
        config (Path): That the setting derives from.
        tradeoff (Tradeoff): Of the search, maybe on the first images only.
        best (Setting): That was found.
        goal (Goal): That it reaches.
        rows (list[dict]): Among them those of the dense model on smaller pictures.
    """
    path, metric = tradeoff.work_dir / 'found.py', goal.metric
    lines = [f'Found by {" ".join(sys.argv)}', f'Goal: {goal}.']
    write_config(path, config, best.cfg, lines)
    # Timed anew: of many samples the luckiest was taken.
    whole = Tradeoff(tradeoff.work_dir, tradeoff.dense, None, tradeoff.pictures, 2 * tradeoff.rounds)
    row = whole.row(Setting('found', 'searched', read_config(path), best.checkpoint, best.values))
    dense = whole.row(whole.dense)
    if not tradeoff.num:  # else its rivals were scored on other images
        judge_rows([*rows, row], metric)
    lines.append(f'Measured on the whole validation set: {describe(row, dense, metric)}.')
    drop = metric.loss(row['metrics'][metric.name], dense['metrics'][metric.name])
    if not goal.reached(row['speedup']['ratio'], drop):
        lines.append(f'There it misses the {goal}: search on more images (--num) or with a margin.')
    write_config(path, config, best.cfg, lines)
    about = dict(command=sys.argv, goal=str(goal), rows=[dense, row])
    write_json(tradeoff.work_dir / 'found.json', about)
    print('\n'.join(['', *lines[1:], f'reducer={best.cfg.model.backbone.reducer}', str(path)]))


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)


def as_text(value: Any) -> str:
    """A value of a config in the notation of config files."""
    if isinstance(value, dict) and all(map(_is_name, value)):
        return f'dict({", ".join(f"{key}={as_text(item)}" for key, item in value.items())})'
    if isinstance(value, list):
        return f'[{", ".join(map(as_text, value))}]'
    return repr(value)
