"""What is wrong with a config, a checkpoint, a picture or a disk ends a tool with one line."""

import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from mmtoken.engine.errors import UserError, one_line_errors, user_errors

from .conftest import call, train, weights

# ----------------------------------------------------------------------------------------------------------- configs
BROKEN = {
    'syntax': ('a = (\n', ["'(' was never closed", 'line 1']),
    'circle': ("_base_ = 'circle.py'\n", ['includes itself']),
    'base': ("_base_ = 'nope.py'\n", ['nope.py', 'No such file']),
    'name': ('a = undefined_b\n', ["'undefined_b' is not defined"]),
    'twice': ("_base_ = ['mmseg::_base_/default_runtime.py'] * 2\n", ['Duplicate key']),
    'imports': ("custom_imports = dict(imports=['no_such_module'])\n", ['no_such_module']),
}


@pytest.mark.parametrize('kind', BROKEN)
def test_broken_configs(fails, street, kind):
    text, words = BROKEN[kind]
    (street / f'{kind}.py').write_text(text)
    for tool, more in (('train', []), ('test', ['x.pth']))[: 1 if kind == 'circle' else 2]:
        fails(tool, f'{kind}.py', *more, words=[f'config {kind}.py', *words])


@pytest.mark.parametrize(
    'option, words',
    [
        ('model.backbone.reducr.type=mmtoken.ToMe', ["'reducr'", 'reducer, did you mean']),
        ('model.backbone.type=mmtoken.TokenDINO2', ['TokenDINO2', 'did you mean mmtoken.TokenDINOv2?']),
        ('model.decode_head.type=FCNHed', ['FCNHed', 'did you mean mmseg.FCNHead?']),
        ('model.decode_head.chanels=3', ["'chanels'", 'channels, did you mean']),
        ('optim_wrapper.optimizer.type=AdmaW', ['AdmaW', 'AdamW?']),
        ('optim_wrapper.optimizer.lr=-1.0', ['Invalid learning rate']),
        ('train_dataloader.dataset.pipeline.1.type=LoadAnotations', ['LoadAnotations', 'did you mean']),
        ('val_evaluator.type=IuoMetric', ['IuoMetric', 'IoUMetric?']),
        ('nothing', ['--cfg-options nothing', 'give key=value']),
        ('param_scheduler.7.power=1', ['--cfg-options param_scheduler.7.power', '7']),
    ],
)
def test_unknown_types_and_keys(fails, option, words):
    fails('train', 'config.py', '--work-dir', 'bad', '--cfg-options', option, words=words)


@pytest.mark.parametrize(
    'option, words',
    [
        ('optim_wrapper.optimizer.lr=inf', ['optim_wrapper.optimizer.lr=inf is not finite']),
        ('optim_wrapper.optimizer.lr=nan', ['optim_wrapper.optimizer.lr=nan is not finite']),
        ('model.backbone.drop_path_rate=nan', ['model.backbone.drop_path_rate=nan is not finite']),
        ('model.data_preprocessor.std=[1,0,1]', ['model.data_preprocessor.std[1]=0', 'divided by zero']),
    ],
)
def test_numbers_that_are_none(fails, option, words):
    for tool, more in (('train', []), ('test', ['x.pth'])):
        fails(tool, 'config.py', *more, '--work-dir', 'bad', '--cfg-options', option, words=words)


def test_a_flag_that_would_do_nothing(fails):
    fails('test', 'config.py', 'x.pth', '--wait-time', '3', words=['--wait-time', '--show'])


def test_a_folder_that_cannot_be_made(fails, trained):
    (trained.parent / 'file').write_text('')
    fails('train', 'config.py', '--work-dir', 'file/bad', words=['file'])
    fails('test', 'config.py', trained / 'iter_6.pth', '--work-dir', 'file/bad', words=['file'])


# -------------------------------------------------------------------------------------------------------------- data
def no_bytes(path):
    path.write_bytes(b'')


def text(path):
    path.write_text('no picture')


def cut(path):
    path.write_bytes(path.read_bytes()[:40])


def draw(array):
    return lambda path: cv2.imwrite(str(path), array)


LABEL = np.zeros((42, 56), np.uint8)
BAD_DATA = [
    ('images', no_bytes, ['0.jpg: cannot be read as a picture']),
    ('images', text, ['0.jpg: cannot be read as a picture']),
    ('labels', no_bytes, ['0.png: cannot be read as a label map']),
    ('labels', cut, ['0.png: cannot be read as a label map']),
    ('labels', draw(LABEL + 11), ['0.png: holds the id 11', 'num_classes=11']),
    ('labels', draw(np.full(LABEL.shape, 256, np.uint16)), ['0.png: holds the id 256', '0 to 255']),
    ('labels', draw(LABEL[:40]), ['0.png: the label map is 40×56, its picture 42×56']),
    ('labels', draw(np.zeros((42, 56, 3), np.uint8)), ['0.png: the label map is 42×56×3']),
]


@pytest.mark.parametrize('kind, spoil, words', BAD_DATA)
@pytest.mark.parametrize('tool', ['train', 'test'])
def test_bad_data(fails, street, trained, tmp_path, tool, kind, spoil, words):
    shutil.copytree(street / 'data', tmp_path / 'data')
    folder, end = {'train': 'train', 'test': 'val'}[tool], {'images': 'jpg', 'labels': 'png'}[kind]
    for i in range(1, 4):  # the bad one is met at once
        shutil.copy(tmp_path / f'data/images/{folder}/0.jpg', tmp_path / f'data/images/{folder}/{i}.jpg')
    spoil(tmp_path / f'data/{kind}/{folder}/0.{end}')
    options = ['--work-dir', 'bad', '--cfg-options', f'{tool}_dataloader.dataset.data_root={tmp_path}/data']
    options += ['train_cfg.max_iters=3', 'default_hooks.checkpoint.interval=99']
    fails(tool, 'config.py', *[trained / 'iter_6.pth'] * (tool == 'test'), *options, words=words)


# ------------------------------------------------------------------------------------------------------- checkpoints
def spoiled(source, target, change):
    checkpoint = torch.load(source, map_location='cpu', weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, target)
    return target


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_finite(fails, trained, tmp_path, value):
    def change(checkpoint):
        checkpoint['state_dict']['backbone.blocks.0.norm1.weight'][0] = value

    path = spoiled(trained / 'iter_6.pth', tmp_path / 'bad.pth', change)
    words = ['bad.pth', 'backbone.blocks.0.norm1.weight', 'not finite']
    fails('test', 'config.py', path, '--work-dir', 'bad', words=words)
    fails('train', 'config.py', '--work-dir', 'bad', '--resume', path, words=words)
    fails('train', 'config.py', '--work-dir', 'bad', '--cfg-options', f'load_from={path}', words=words)


def test_a_run_that_diverges_ends_without_a_checkpoint(fails):
    options = ['optim_wrapper.optimizer.lr=1e30', 'train_cfg.val_interval=99', 'train_dataloader.num_workers=0']
    options += ['train_dataloader.persistent_workers=False']
    fails('train', 'config.py', '--work-dir', 'bad', '--cfg-options', *options, words=['not finite', 'diverged'])


@pytest.fixture
def interrupted(street, trained):
    """A work dir with the checkpoints of three moments."""
    folder = street / 'interrupted'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ('iter_2.pth', 'iter_4.pth', 'iter_6.pth'):
        shutil.copy(trained / name, folder)  # in the order of time
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_6.pth'))
    return folder


@pytest.mark.parametrize('spoil', [cut, no_bytes, text])
@pytest.mark.parametrize('last', ['iter_6.pth', '', None])
def test_resume_falls_back_to_what_can_be_read(interrupted, capsys, spoil, last):
    from mmtoken.engine.checkpoints import latest_checkpoint

    (interrupted / '.iter_8.pth.0.part').write_text('half')
    assert latest_checkpoint(str(interrupted)) == str(interrupted / 'iter_6.pth')
    assert not list(interrupted.glob('.*'))
    assert capsys.readouterr().out == ''
    spoil(interrupted / 'iter_6.pth')
    if last is None:
        (interrupted / 'last_checkpoint').unlink()
    else:
        (interrupted / 'last_checkpoint').write_text(last and str(interrupted / last))
    assert latest_checkpoint(str(interrupted)) == str(interrupted / 'iter_4.pth')
    said = capsys.readouterr().out.splitlines()
    assert 'iter_6.pth cannot be read' in said[0] and said[1] == f'--resume: going on from {interrupted}/iter_4.pth'
    for path in interrupted.glob('*.pth'):
        spoil(path)
    with pytest.raises(UserError, match='no checkpoint in .* can be read'):
        latest_checkpoint(str(interrupted))
    assert latest_checkpoint(str(interrupted / 'new')) is None


def test_training_goes_on_from_an_older_checkpoint(street, trained, interrupted):
    cut(interrupted / 'iter_6.pth')
    done = train(street, 'interrupted', '--resume')
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'going on from' in done.stdout and 'resumed epoch: 0, iter: 4' in done.stdout + done.stderr
    whole, again = weights(trained / 'iter_6.pth'), weights(interrupted / 'iter_6.pth')
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_a_validation_that_a_kill_ate_is_made_up_for(street, trained, monkeypatch):
    """Killed in the validation after six iterations: the checkpoint of that moment is there, the score is not."""
    folder = street / 'eaten'
    folder.mkdir()
    shutil.copy(trained / 'iter_6.pth', folder)
    (folder / 'last_checkpoint').write_text(str(folder / 'iter_6.pth'))
    monkeypatch.chdir(street)
    monkeypatch.syspath_prepend(str(street))
    call('train', monkeypatch, 'config.py', '--work-dir', folder, '--resume')
    log = next(folder.glob('*/*.log')).read_text()
    assert 'it is made up for now' in log and log.count('mIoU: ') == 1


def reorder(checkpoint):
    state = checkpoint['state_dict']
    state.move_to_end('decode_head.conv_seg.weight', last=False)


def forget(checkpoint):
    del checkpoint['optimizer']


def regroup(checkpoint):
    group = checkpoint['optimizer']['param_groups'][0]
    checkpoint['optimizer']['param_groups'] = [dict(group, params=group['params'][:3]), dict(group, params=[3, 4])]


@pytest.mark.parametrize(
    'change, words',
    [
        (reorder, ['it has decode_head.conv_seg.weight where this one has', 'load_from instead of --resume']),
        (forget, ['weights alone', 'load_from']),
        (regroup, ['other groups of parameters', 'load_from instead of --resume']),
    ],
)
def test_an_optimizer_state_of_other_parameters_is_refused(fails, trained, tmp_path, change, words):
    path = spoiled(trained / 'iter_2.pth', tmp_path / 'other.pth', change)
    fails('train', 'config.py', '--work-dir', 'bad', '--resume', path, words=['other.pth', *words])


@pytest.mark.parametrize('key', ['model.pretrained', 'model.backbone.init_cfg.checkpoint', 'model.init_cfg.checkpoint'])
def test_first_weights_that_fit_nothing(fails, street, tmp_path, key):
    """A stock ViT in place of ours, which mmengine would start at random with one warning."""
    torch.save({'layer1.0.weight': torch.randn(3, 3), 'pos_embed': torch.randn(1, 17, 16)}, tmp_path / 'other.pth')
    stock = dict(type='VisionTransformer', img_size=56, patch_size=14, embed_dims=16, num_layers=2, num_heads=2)
    (street / 'stock.py').write_text((street / 'config.py').read_text() + f"\nmodel['backbone'] = {stock}\n")
    options = [f'{key}={tmp_path}/other.pth'] + [f'{key[:-11]}.type=Pretrained'] * key.endswith('.checkpoint')
    fails('train', 'stock.py', '--work-dir', 'bad', '--cfg-options', *options, words=[key, 'parameters come out of'])


def test_first_weights_that_fit_are_taken(street, trained, monkeypatch):
    torch.save(
        {k.removeprefix('backbone.'): v for k, v in weights(trained / 'iter_6.pth').items() if 'backbone' in k},
        street / 'backbone.pth',
    )
    monkeypatch.chdir(street)
    monkeypatch.syspath_prepend(str(street))
    options = ['model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=backbone.pth']
    options += ['train_cfg.max_iters=1', 'train_cfg.val_interval=9', 'train_dataloader.num_workers=0']
    options += ['train_dataloader.persistent_workers=False']
    call('train', monkeypatch, 'config.py', '--work-dir', 'fits', '--cfg-options', *options)
    assert (street / 'fits/iter_1.pth').is_file()


@pytest.mark.skipif(not hasattr(signal, 'SIGKILL'), reason='no kill -9 here')
def test_what_is_saved_is_whole(trained):
    for path in trained.glob('*.pth'):
        weights(path)
    assert not list(trained.glob('.*.part'))


# ------------------------------------------------------------------------------------------------------------- frames
def test_faults_of_the_code_keep_their_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError), one_line_errors():
        1 / 0  # noqa: B018
    with pytest.raises(KeyError), one_line_errors():
        {}['x']
    with pytest.raises(SystemExit, match='nowhere: No such file'), one_line_errors():
        Path('nowhere').read_text()
    with pytest.raises(UserError, match='the config: ZeroDivisionError: division'), user_errors('the config'):
        1 / 0  # noqa: B018
    monkeypatch.setenv('MMTOKEN_DEBUG', '1')
    with pytest.raises(UserError, match='mine'), one_line_errors():
        raise UserError('mine')


def test_an_error_of_a_worker_is_one_line_if_it_is_ours():
    text = 'Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n'
    from mmtoken.engine.errors import PACKAGE

    with pytest.raises(SystemExit, match='^a.png: bad$'), one_line_errors():
        raise ValueError(f'{text}  File "{PACKAGE}/datasets/x.py", line 3, in f\n    raise\nValueError: a.png: bad\n')
    with pytest.raises(ValueError, match='Caught'), one_line_errors():
        raise ValueError(f'{text}  File "/else/x.py", line 3, in f\n    raise\nValueError: a.png: bad\n')


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130 and capsys.readouterr().err == 'stopped by Ctrl-C\n'
    monkeypatch.setenv('MMTOKEN_DEBUG', '1')
    with pytest.raises(KeyboardInterrupt), one_line_errors():
        raise KeyboardInterrupt


def test_a_full_disk_is_one_line(fails, monkeypatch):
    def full(self):
        raise OSError(28, 'No space left on device', 'iter_2.pth')

    monkeypatch.setattr(Runner, 'train', full)
    fails('train', 'config.py', '--work-dir', 'bad', words=['iter_2.pth: No space left on device'])
