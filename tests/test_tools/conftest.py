"""A street of four pictures that is made up here, and how the tools are run on it."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections import OrderedDict
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

import mmtoken  # noqa: F401

ROOT = Path(__file__).parents[2]

CONFIG = """
_base_ = [{base!r} + name for name in ('datasets/camvid.py', 'default_runtime.py')]
custom_imports = dict(imports=['kill_hook'])
custom_hooks = [dict(type='KillHook')]
data_root = {data!r}
head = dict(type='FCNHead', in_channels=16, in_index=0, channels=16, num_convs=1, concat_input=False, num_classes=11,
            dropout_ratio=0.5, norm_cfg=dict(type='BN'), loss_decode=dict(type='CrossEntropyLoss'))
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[128.0] * 3, std=[64.0] * 3, bgr_to_rgb=True, pad_val=0,
                           seg_pad_val=255, size=(42, 56)),
    backbone=dict(type='mmtoken.TokenDINOv2', arch=dict(embed_dims=16, num_layers=2, num_heads=2), img_size=56,
                  drop_path_rate=0.5),
    decode_head=head, train_cfg=dict(), test_cfg=dict(mode='whole'))
tta_model = dict(type='SegTTAModel')
train_dataloader = dict(batch_size=2, num_workers=1, dataset=dict(data_root=data_root))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2))
param_scheduler = [dict(type='PolyLR', begin=0, end=6, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=6, val_interval=3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=-1))
"""

KILL_HOOK = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class KillHook(Hook):
    def after_train_iter(self, runner, **kwargs):
        if runner.iter + 1 == int(os.environ.get('KILL_AT', -1)):
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope='session')
def street(tmp_path_factory) -> Path:
    """A folder with a tiny CamVid, a config and a hook that kills the process."""
    folder, rng = tmp_path_factory.mktemp('street'), np.random.default_rng(0)
    for split in ('train', 'val'):
        for kind in ('images', 'labels'):
            (folder / 'data' / kind / split).mkdir(parents=True)
        for i in range(4):
            label = cv2.resize(rng.integers(0, 11, (3, 4), dtype=np.uint8), (56, 42), interpolation=cv2.INTER_NEAREST)
            image = np.repeat(label[..., None] * 20, 3, axis=2) + rng.integers(0, 20, (42, 56, 3), dtype=np.uint8)
            label[:, 0] = 255
            cv2.imwrite(str(folder / 'data' / 'images' / split / f'{i}.jpg'), image)
            cv2.imwrite(str(folder / 'data' / 'labels' / split / f'{i}.png'), label)
    (folder / 'kill_hook.py').write_text(KILL_HOOK)
    (folder / 'config.py').write_text(CONFIG.format(base=f'{ROOT}/configs/_base_/', data=str(folder / 'data')))
    cfg = Config.fromfile(folder / 'config.py', import_custom_modules=False)
    scales = [
        'train_dataloader.dataset.pipeline.2',
        'val_dataloader.dataset.pipeline.1',
        'test_dataloader.dataset.pipeline.1',
        'tta_pipeline.1.transforms.0.0',
    ]
    cfg.merge_from_dict({f'{step}.scale': (56, 42) for step in scales})
    cfg.dump(folder / 'config.py')
    return folder


def shell(street: Path, *command, **env) -> subprocess.CompletedProcess:
    paths = os.pathsep.join([str(ROOT), str(street), os.environ.get('PYTHONPATH', '')])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    env = {**os.environ, 'PYTHONPATH': paths, 'PATH': path, 'OMP_NUM_THREADS': '1', **env}
    return subprocess.run([str(c) for c in command], env=env, cwd=street, capture_output=True, text=True, timeout=300)


@cache
def server() -> subprocess.Popen:
    """See ``forks.py``; it ends with this process, which closes its input."""
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])}
    command = [sys.executable, '-W', 'ignore', str(Path(__file__).parent / 'forks.py')]
    return subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def fork(street: Path, tool: str, *argv, processes: int = 1, **env) -> subprocess.CompletedProcess:
    """Runs a tool as ``python tools/TOOL.py`` does, in one process or in several that train together."""
    for name in ('stdout', 'stderr'):
        (street / name).write_text('')
    ranks = [env] * processes
    if processes > 1:
        together = dict(WORLD_SIZE=str(processes), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()))
        ranks = [{**env, **together, 'RANK': str(i), 'LOCAL_RANK': str(i)} for i in range(processes)]
        argv = *argv, '--launcher', 'pytorch'
    script = [str(ROOT / 'tools' / f'{tool}.py'), *map(str, argv)]
    server().stdin.write(json.dumps(dict(folder=str(street), argv=script, env=ranks)) + '\n')
    server().stdin.flush()
    codes = json.loads(server().stdout.readline())
    return subprocess.CompletedProcess(
        script, next(filter(None, codes), 0), (street / 'stdout').read_text(), (street / 'stderr').read_text()
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def train(street: Path, work_dir: str, *flags, config: str = 'config.py', **more) -> subprocess.CompletedProcess:
    return fork(street, 'train', config, '--work-dir', work_dir, *flags, **more)


@pytest.fixture(scope='session')
def trained(street) -> Path:
    """The work dir of an unbroken run of six iterations."""
    done = train(street, 'unbroken')
    assert done.returncode == 0, done.stderr[-3000:]
    return street / 'unbroken'


def weights(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


def call(tool: str, monkeypatch, *argv):
    """Runs a tool in this process."""
    spec = importlib.util.spec_from_file_location(f'mmtoken_tools_{tool}', ROOT / 'tools' / f'{tool}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, 'argv', [f'{tool}.py', *map(str, argv)])
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())  # the runner's scope must not outlive the test
    module.main()


@pytest.fixture
def fails(street, monkeypatch, capsys):
    """Expects a tool to end with code 2 and one line that holds all the given words, before it writes a checkpoint."""
    monkeypatch.chdir(street)
    monkeypatch.syspath_prepend(str(street))

    def check(tool, *argv, words):
        with pytest.raises(SystemExit) as caught:
            call(tool, monkeypatch, *argv)
        message = str(caught.value)
        assert '\n' not in message and all(word in message for word in words), message
        assert caught.value.code == 2 and capsys.readouterr().err.splitlines()[-1] == message
        assert not list(street.glob('bad/**/*.pth'))

    return check
