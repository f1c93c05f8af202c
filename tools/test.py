"""Evaluate a checkpoint: ``tools/test.py`` of mmseg and mmdet and their flags, for configs that use mmtoken.

    python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out PATH] [--show-dir DIR] [--tta] [--compile]

The checkpoint may come from the dense model: CONFIG then says how it is accelerated.
"""

import argparse
import os
from pathlib import Path

from mmengine.config import Config

import mmtoken  # noqa: F401  before any config is read: it makes `mmtoken::` and `mmseg::` known to mmengine
from mmtoken.engine.checkpoints import check_checkpoint
from mmtoken.engine.configs import CfgOptions, check_datasets, load_config, name_bad_files
from mmtoken.engine.detection import add_tta, check_detection, dump_predictions, is_detection
from mmtoken.engine.devices import use_cpu_if_needed
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.flags import check_least, check_needs
from mmtoken.engine.models import build_runner, build_testing, compile_backbones, deploy


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder for the log and the metrics (work_dirs/<name of the config>)')
    parser.add_argument('--out', help='folder for the predicted label maps; of a detector a .pkl file for its boxes')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument(
        '--show-dir', help='folder for painted predictions, one of every default_hooks.visualization.interval'
    )
    parser.add_argument('--wait-time', type=float, help='seconds that --show shows each picture (2)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='override settings of the config: key=value, key="[a,b]", key="[(a,b),(c,d)]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation by tta_pipeline and tta_model')
    parser.add_argument('--compile', action='store_true', help='torch.compile the backbone, once for each picture size')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    check_needs(args, 'wait_time', 'show')
    check_least(args, wait_time=0)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def need(cfg: Config, key: str, flag: str):
    """The setting that a flag acts on, or one line that says it is not there."""
    for part in key.split('.'):
        cfg = cfg.get(part)
        if cfg is None:
            raise UserError(f'{flag} needs {key} in the config')
    return cfg


@one_line_errors()
def main():
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(args.config).stem)
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        hook = need(cfg, 'default_hooks.visualization', '--show-dir' if args.show_dir else '--show')
        hook.update(draw=True, show=args.show, wait_time=2 if args.wait_time is None else args.wait_time)
        if args.show_dir and is_detection(cfg):
            hook.test_out_dir = args.show_dir
        elif args.show_dir:
            need(cfg, 'visualizer', '--show-dir').save_dir = args.show_dir
    if args.tta:
        if is_detection(cfg):
            add_tta(cfg)
        cfg.test_dataloader.dataset.pipeline = need(cfg, 'tta_pipeline', '--tta')
        cfg.model = dict(need(cfg, 'tta_model', '--tta'), module=cfg.model)
    if args.out and is_detection(cfg):
        dump_predictions(cfg, args.out)
    elif args.out:
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        for evaluator in evaluators:
            evaluator.update(output_dir=args.out, keep_results=True)

    check_datasets(cfg, ['test'])
    check_detection(cfg, ['test'])
    use_cpu_if_needed(cfg)
    name_bad_files(cfg)
    runner = build_runner(cfg)
    build_testing(runner)
    check_checkpoint(runner.model, args.checkpoint)
    deploy(runner.model)
    if args.compile:
        compile_backbones(runner.model)
    runner.test()


if __name__ == '__main__':
    main()
