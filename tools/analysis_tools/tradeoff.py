"""What accuracy do settings of a method cost, and what speed do they buy? Or: which setting to take for a target?

    python tools/analysis_tools/tradeoff.py CONFIG CHECKPOINT --sweep reducer.grid=0.5,0.67,0.8 [--sweep KEY=…]
        [--smaller-input 0.8 0.65 0.5] [--competitor CONFIG:CHECKPOINT[:LABEL]]
    python tools/analysis_tools/tradeoff.py CONFIG CHECKPOINT --target-speedup 1.5 | --max-drop 0.5

Each setting is scored on the validation set of the config; its multiply-adds and, in turns with the dense model, its
speed are measured on pictures of that set. The first rival is the dense model on smaller pictures: the verdict says
whether a setting is above or below its curve at the same measured time. Every number is written as soon as it is there:
the same command goes on where it stopped. --work-dir gets tradeoff.csv, .json and .png, and after a search found.py,
the config to use.
"""

import argparse
import itertools
import sys
from pathlib import Path

from mmengine.config import Config

import mmtoken  # noqa: F401  before any config is read
from mmtoken.analysis import variants
from mmtoken.analysis.loading import read_config
from mmtoken.analysis.report import operator_line
from mmtoken.analysis.rivals import FACTORS, judge_rows
from mmtoken.analysis.tasks import Metric
from mmtoken.analysis.tradeoff import Setting, Tradeoff, describe, images_of, write_csv
from mmtoken.core import TokenHost
from mmtoken.engine.configs import CfgOptions
from mmtoken.engine.devices import check_installed
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output, write_json
from mmtoken.engine.flags import check_apart, check_finite, check_needs, check_parts, check_positive


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, several = parser.add_argument, dict(action='append', default=[])
    add('config', type=Path, help='config file with a reducer')
    add('checkpoint', help='checkpoint file; that of the dense model serves')
    add('--sweep', **several, metavar='KEY=A,B,…', help='values of an argument; several --sweep make a grid')
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument('--target-speedup', type=float, metavar='X', help='search: least loss that is X times faster')
    goal.add_argument('--max-drop', type=float, metavar='D', help='search: fastest that is worse by at most D')
    add('--search', **several, metavar='KEY=LOW:HIGH | KEY=A,B,…', help='where to search; one value fixes it')
    add('--trials', type=int, help='settings that a search tries (30)')
    add('--smaller-input', type=float, nargs='+', metavar='F', help='sides of smaller pictures (0.8 0.65 0.5)')
    add('--no-smaller-input', action='store_true', help='leave the dense model on smaller pictures out')
    add('--competitor', **several, metavar='CONFIG:CKPT[:LABEL]', help='another model, such as a smaller backbone')
    add('--metric', default='mIoU', help='metric of the evaluator (mIoU)')
    add('--lower-is-better', action=argparse.BooleanOptionalAction, help='for metrics other than RMSE, MPJPE and such')
    add('--num', type=int, help='score on the first so many images only, for a quick look')
    add('--pictures', type=int, default=8, help='images to count and time on (8)')
    add('--rounds', type=int, default=10, help='timed runs of each model (10), or more where pictures differ in cost')
    add('--work-dir', type=Path, help='folder (work_dirs/tradeoff/<name of the config>)')
    add('--cfg-options', nargs='+', action=CfgOptions, help='override settings of the config')
    args = parser.parse_args()
    args.search_wanted = args.target_speedup is not None or args.max_drop is not None
    args.metric = Metric.named(args.metric, args.lower_is_better)
    args.factors = [] if args.no_smaller_input else args.smaller_input or FACTORS
    if not (args.sweep or args.search_wanted):
        raise UserError('Nothing to do: give --sweep KEY=A,B,…, --target-speedup X or --max-drop D')
    check_positive(args, 'num', 'pictures', 'rounds', 'trials', 'target_speedup')
    check_finite(args, 'max_drop')
    check_parts(args, 'smaller_input')
    check_apart(args, 'smaller_input', 'no_smaller_input', why='give one of them')
    for flag in ('search', 'trials'):
        check_needs(args, flag, 'target_speedup', 'max_drop')
    args.trials = args.trials or 30
    return args


def read_settings(args: argparse.Namespace, cfg: Config, dense: Setting, host: TokenHost) -> list[Setting]:
    """The dense model on smaller pictures, other models, and what --sweep makes of the config."""
    settings = []
    for factor in args.factors:
        small = variants.smaller_input(dense.cfg, factor, host.patch_size)
        settings.append(Setting(f'input ×{factor:g}', 'smaller input', small, args.checkpoint))
    for text in args.competitor:
        path, checkpoint, label = variants.parse_competitor('--competitor', text)
        other = read_config(path, variants.without(args.cfg_options, 'model.'))
        settings.append(Setting(label or Path(path).stem, 'smaller backbone', other, checkpoint))
    sweeps = variants.by_key(cfg, '--sweep', [variants.parse_values('--sweep', text) for text in args.sweep])
    for values in itertools.product(*sweeps.values()) if sweeps else ():
        values = dict(zip(sweeps, values))
        name = ', '.join(f'{key.removeprefix("reducer.")}={value}' for key, value in values.items())
        settings.append(Setting(name, 'reduced', variants.with_settings(cfg, values), args.checkpoint, values))
        variants.check_settings(settings[-1].cfg, host.info())
    return settings


def measure(args: argparse.Namespace, tradeoff: Tradeoff, settings: list[Setting]) -> list[dict]:
    """A row for the dense model and each setting; default rivals that the model cannot run as are left out."""
    tradeoff.score(tradeoff.dense, args.metric.name)
    rows = [tradeoff.row(tradeoff.dense)]
    print(f'dense: {describe(rows[0], rows[0], args.metric)}', flush=True)
    for number, setting in enumerate(settings, 1):
        about = f'{number} of {len(settings)}, {setting.name}'
        try:
            rows.append(tradeoff.row(setting))
        except (AssertionError, RuntimeError, ValueError) as error:
            if setting.kind != 'smaller input' or args.smaller_input:
                raise
            print(f'{about}: left out, the model does not run at this size ({str(error).splitlines()[0]})')
            continue
        judge_rows(rows, args.metric)
        print(f'{about}: {describe(rows[-1], rows[0], args.metric)}', flush=True)
    return rows


@one_line_errors()
def main():
    args = parse_args()
    check_installed('matplotlib', *['optuna'] * args.search_wanted)
    from mmtoken.analysis.figures import save_figure, tradeoff_figure

    cfg = read_config(args.config, args.cfg_options)
    variants.check_reducer(cfg, args.config)
    given = variants.by_key(cfg, '--search', [variants.parse_space('--search', text) for text in args.search])
    args.work_dir = args.work_dir or Path('work_dirs/tradeoff') / args.config.stem
    check_output('--work-dir', args.work_dir / 'tradeoff.json')
    dense = Setting('dense', 'dense', variants.dense_config(cfg), args.checkpoint)
    tradeoff = Tradeoff(args.work_dir, dense, args.num, args.pictures, args.rounds)
    host = tradeoff.contender(dense).model.backbone
    settings = read_settings(args, cfg, dense, host)
    for setting in settings:
        tradeoff.key(setting, 'metrics')  # refuses a missing checkpoint
    if args.search_wanted:
        from mmtoken.analysis.search import Goal, declared_space, search, write_found

        goal = Goal(args.target_speedup, args.max_drop, args.metric)
        accelerated = tradeoff.contender(Setting('config', 'searched', cfg, args.checkpoint)).model.backbone
        space = {**declared_space(accelerated.reducer, host.info()), **given}
        if not space:
            raise UserError('the method of this config declares nothing to search: give --search KEY=LOW:HIGH')

    rows, best = measure(args, tradeoff, settings), None
    if args.search_wanted:
        best, scored = search(tradeoff, cfg, args.checkpoint, space, goal, args.trials, print)
        rows += [tradeoff.row(setting) for setting in scored]
        judge_rows(rows, args.metric)
        if best is not None:
            write_found(args.config, tradeoff, best, goal, rows)

    about = dict(command=sys.argv, config=str(args.config), checkpoint=args.checkpoint, **tradeoff.machine)
    about |= dict(metric=args.metric.name, lower_is_better=args.metric.lower, rows=rows)
    write_json(args.work_dir / 'tradeoff.json', about)
    write_csv(args.work_dir / 'tradeoff.csv', rows, args.metric)
    rounds = '-'.join(map(str, sorted({len(row['seconds']) for row in rows})))  # more where pictures differ in cost
    title = f'{args.config.stem}\n{images_of(rows[0])}, {tradeoff.machine["device"]}, {rounds} rounds, batch 1'
    save_figure(tradeoff_figure(rows, args.metric, title, best and best.name), args.work_dir / 'tradeoff.png')
    print(f'{args.work_dir}/tradeoff.png, .csv, .json ({rounds} rounds)')
    for row in filter(lambda row: row['missed'], rows):
        missed = operator_line(row['missed'])
        print(f'MACs of {row["name"]} are too low, no formula for {missed}; see get_flops.py', file=sys.stderr)
    if args.search_wanted and best is None:
        raise SystemExit(f'None of {args.trials} trials reaches a {goal}; widen --search or raise --trials')


if __name__ == '__main__':
    main()
