"""Train a model: ``tools/train.py`` of mmseg and mmdet and their flags, for configs that use mmtoken.

python tools/train.py CONFIG [--work-dir DIR] [--resume] [--amp] [--auto-scale-lr] [--cfg-options KEY=VALUE ...]
"""

import argparse
import os
from pathlib import Path

import mmtoken  # noqa: F401  before any config is read: it makes `mmtoken::` and `mmseg::` known to mmengine
from mmtoken.engine import GuardHook
from mmtoken.engine.checkpoints import check_checkpoint, check_resume, latest_checkpoint
from mmtoken.engine.configs import CfgOptions, check_datasets, check_pretrained, load_config, name_bad_files
from mmtoken.engine.detection import check_detection
from mmtoken.engine.devices import check_amp, use_cpu_if_needed
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.models import build_runner, build_training, dry_run


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (work_dirs/<name of the config>)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint, or from the latest one in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='override settings of the config: key=value, key="[a,b]", key="[(a,b),(c,d)]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    if args.config is None and args.resume not in (None, 'auto'):  # mmseg's `train.py --resume CONFIG`
        args.config, args.resume = args.resume, 'auto'
    if args.config is None:
        parser.error('the following arguments are required: config')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


@one_line_errors()
def main():
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or os.path.join('work_dirs', Path(args.config).stem)
    if args.amp:
        kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise UserError(f'--amp works with optim_wrapper.type=OptimWrapper, not with {kind}')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
            raise UserError('--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=…) in the config')
        cfg.auto_scale_lr.enable = True
    cfg.resume = args.resume is not None
    if cfg.resume:
        resumed = latest_checkpoint(cfg.work_dir) if args.resume == 'auto' else args.resume
        if resumed is None:
            print(f'--resume: there is no checkpoint in {cfg.work_dir} yet; the training begins')
            cfg.resume = False
        else:
            cfg.load_from = resumed

    check_datasets(cfg, ['train', 'val'])
    check_detection(cfg, ['train', 'val'])
    check_pretrained(cfg)
    check_amp(cfg)
    use_cpu_if_needed(cfg)
    name_bad_files(cfg)
    runner = build_runner(cfg)
    build_training(runner)
    start = cfg.get('load_from')
    if cfg.resume:
        check_resume(runner, start)
    if start:
        check_checkpoint(runner.model, start, part='' if cfg.resume else 'backbone.', untrained=cfg.resume)
    dry_run(runner.model, cfg)
    runner.register_hook(GuardHook())
    runner.train()


if __name__ == '__main__':
    main()
