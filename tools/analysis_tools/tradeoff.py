"""What accuracy do settings of a method cost, and what speed do they buy? Or: which setting to take for a target?

    python tools/analysis_tools/tradeoff.py CONFIG CHECKPOINT --sweep reducer.grid=0.5,0.67,0.8 [--sweep KEY=…]
        [--smaller-input 0.8 0.6] [--competitor CONFIG:CHECKPOINT[:LABEL]]
    python tools/analysis_tools/tradeoff.py CONFIG CHECKPOINT --target-speedup 1.5 | --max-drop 0.5

Each setting is scored on the validation set of the config; its multiply-adds and, in turns with the dense model, its
speed are measured on pictures of that set. Every number is written as soon as it is there: the same command goes on
where it stopped. --work-dir gets tradeoff.csv, .json and .png, and after a search found.py, the config to use.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

from mmengine.config import DictAction

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis import variants
from mmtoken.analysis.loading import read_config
from mmtoken.analysis.report import operator_line
from mmtoken.analysis.tradeoff import Setting, Tradeoff, describe, images_of, write_csv
from mmtoken.engine.devices import check_installed
from mmtoken.engine.errors import UserError, one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=Path, help='config file with a reducer')
    parser.add_argument('checkpoint', help='checkpoint file; that of the dense model serves')
    parser.add_argument(
        '--sweep',
        action='append',
        default=[],
        metavar='KEY=A,B,…',
        help='values of an argument, such as reducer.r=80,110; several --sweep make a grid',
    )
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument('--target-speedup', type=float, metavar='X', help='search: least loss that is X times faster')
    goal.add_argument('--max-drop', type=float, metavar='D', help='search: fastest that loses at most D of the metric')
    parser.add_argument(
        '--search',
        action='append',
        default=[],
        metavar='KEY=LOW:HIGH | KEY=A,B,…',
        help='where to search, beside or instead of what the method declares; one value fixes it',
    )
    parser.add_argument('--trials', type=int, default=30, help='settings that a search tries (30)')
    parser.add_argument(
        '--smaller-input',
        type=float,
        nargs='+',
        default=[],
        metavar='F',
        help='the dense model on pictures of F times the size, as competitors',
    )
    parser.add_argument(
        '--competitor',
        action='append',
        default=[],
        metavar='CONFIG:CKPT[:LABEL]',
        help='another model, such as a smaller backbone',
    )
    parser.add_argument('--metric', default='mIoU', help='metric of the evaluator, higher is better (mIoU)')
    parser.add_argument('--num', type=int, help='score on the first so many images only, for a quick look')
    parser.add_argument('--pictures', type=int, default=8, help='images to count and time on (8)')
    parser.add_argument(
        '--rounds',
        type=int,
        default=10,
        help='timed runs of each model (10), or more: pictures that differ in cost come equally often',
    )
    parser.add_argument('--work-dir', type=Path, help='folder (work_dirs/tradeoff/<name of the config>)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings of the config')
    args = parser.parse_args()
    args.search_wanted = args.target_speedup is not None or args.max_drop is not None
    if not (args.sweep or args.search_wanted):
        raise UserError('Nothing to do: give --sweep KEY=A,B,…, --target-speedup X or --max-drop D')
    for flag in ('num', 'pictures', 'rounds', 'trials', 'target_speedup'):
        if getattr(args, flag) is not None and not getattr(args, flag) > 0:
            raise UserError(f'--{flag.replace("_", "-")} {getattr(args, flag)}: must be above 0')
    return args


def rivals(args: argparse.Namespace, dense: Setting, patch: int) -> list[Setting]:
    """The dense model on smaller pictures, and other models."""
    settings = [
        Setting(
            f'input ×{factor:g}', 'smaller input', variants.smaller_input(dense.cfg, factor, patch), args.checkpoint
        )
        for factor in args.smaller_input
    ]
    for text in args.competitor:
        path, checkpoint, label = variants.parse_competitor('--competitor', text)
        cfg = read_config(path, variants.without(args.cfg_options, 'model.'))
        settings.append(Setting(label or Path(path).stem, 'smaller backbone', cfg, checkpoint))
    return settings


def report(args: argparse.Namespace, tradeoff: Tradeoff, best: Setting, goal) -> None:
    """Writes the config that was found, and measures it on the whole validation set."""
    from mmtoken.analysis.search import write_config

    path = args.work_dir / 'found.py'
    lines = [f'Found by {" ".join(sys.argv)}', f'Goal: {goal}.']
    write_config(path, args.config, best.cfg, lines)
    # Timed anew: of many samples the luckiest was taken.
    whole = Tradeoff(tradeoff.work_dir, tradeoff.dense, None, args.pictures, 2 * args.rounds)
    row = whole.row(Setting('found', 'searched', read_config(path), args.checkpoint, best.values))
    dense = whole.row(whole.dense)
    drop = dense['metrics'][args.metric] - row['metrics'][args.metric]
    lines.append(f'Measured on the whole validation set: {describe(row, dense, args.metric)}.')
    if not goal.reached(row['speedup']['ratio'], drop):
        lines.append(f'There it misses the {goal}: search on more images (--num) or with a margin.')
    write_config(path, args.config, best.cfg, lines)
    about = dict(command=sys.argv, goal=str(goal), rows=[dense, row])
    (args.work_dir / 'found.json').write_text(json.dumps(about, indent=1) + '\n')
    print('\n'.join(['', *lines[1:], f'reducer={best.cfg.model.backbone.reducer}', str(path)]))


@one_line_errors()
def main():
    args = parse_args()
    check_installed('matplotlib', *['optuna'] * args.search_wanted)
    from mmtoken.analysis.figures import tradeoff_figure

    cfg = read_config(args.config, args.cfg_options)
    variants.check_reducer(cfg, args.config)
    sweeps = variants.by_key(cfg, '--sweep', [variants.parse_values('--sweep', text) for text in args.sweep])
    given = variants.by_key(cfg, '--search', [variants.parse_space('--search', text) for text in args.search])
    args.work_dir = args.work_dir or Path('work_dirs/tradeoff') / args.config.stem
    dense = Setting('dense', 'dense', variants.dense_config(cfg), args.checkpoint)
    tradeoff = Tradeoff(args.work_dir, dense, args.num, args.pictures, args.rounds)
    host = tradeoff.contender(dense).model.backbone
    settings = rivals(args, dense, host.patch_size)
    for values in itertools.product(*sweeps.values()) if sweeps else ():
        values = dict(zip(sweeps, values))
        name = ', '.join(f'{key.removeprefix("reducer.")}={value}' for key, value in values.items())
        settings.append(Setting(name, 'reduced', variants.with_settings(cfg, values), args.checkpoint, values))
    for setting in settings:
        if setting.kind == 'reduced':
            variants.check_settings(setting.cfg, host.info())
        tradeoff.key(setting, 'metrics')  # refuses a missing checkpoint

    if args.search_wanted:
        from mmtoken.analysis.search import Goal, declared_space, search

        accelerated = tradeoff.contender(Setting('config', 'searched', cfg, args.checkpoint)).model.backbone
        if not (space := {**declared_space(accelerated.reducer, host.info()), **given}):
            raise UserError('the method of this config declares nothing to search: give --search KEY=LOW:HIGH')

    tradeoff.score(dense, args.metric)
    rows = [tradeoff.row(dense)]
    print(f'dense: {describe(rows[0], rows[0], args.metric)}', flush=True)
    for number, setting in enumerate(settings, 1):
        rows.append(tradeoff.row(setting))
        print(f'{number} of {len(settings)}, {setting.name}: {describe(rows[-1], rows[0], args.metric)}', flush=True)
    best = None
    if args.search_wanted:
        goal = Goal(args.target_speedup, args.max_drop, args.metric)
        best, scored = search(tradeoff, cfg, args.checkpoint, space, goal, args.trials, print)
        rows += [tradeoff.row(setting) for setting in scored]
        if best is not None:
            report(args, tradeoff, best, goal)

    about = dict(command=sys.argv, config=str(args.config), checkpoint=args.checkpoint, **tradeoff.machine, rows=rows)
    (args.work_dir / 'tradeoff.json').write_text(json.dumps(about, indent=1) + '\n')
    write_csv(args.work_dir / 'tradeoff.csv', rows, args.metric)
    rounds = '-'.join(map(str, sorted({len(row['seconds']) for row in rows})))  # more where pictures differ in cost
    title = f'{args.config.stem}\n{images_of(rows[0])}, {tradeoff.machine["device"]}, {rounds} rounds, batch 1'
    tradeoff_figure(rows, args.metric, title, best and best.name).savefig(args.work_dir / 'tradeoff.png', dpi=150)
    print(f'{args.work_dir}/tradeoff.png, .csv, .json ({rounds} rounds)')
    for row in filter(lambda row: row['missed'], rows):
        print(
            f'MACs of {row["name"]} are too low, no formula for {operator_line(row["missed"])}; see get_flops.py',
            file=sys.stderr,
        )
    if args.search_wanted and best is None:
        raise SystemExit(f'None of {args.trials} trials reaches a {goal}; widen --search or raise --trials')


if __name__ == '__main__':
    main()
