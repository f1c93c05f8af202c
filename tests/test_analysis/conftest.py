"""A small town for the analysis tools, pictures with labels, configs and a checkpoint; and a street without labels."""

import importlib.util
import sys
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

ROOT = Path(__file__).parents[2]

DENSE = """
_base_ = [{base!r} + name for name in ('datasets/camvid.py', 'default_runtime.py')]
data_root = {data!r}
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(112, 84), keep_ratio=False),
            dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[128.0] * 3, std=[64.0] * 3, bgr_to_rgb=True, pad_val=0,
                           seg_pad_val=255, size=(84, 112)),
    backbone=dict(type='mmtoken.TokenDINOv2', arch=dict(embed_dims=16, num_layers=4, num_heads=2), img_size=112),
    decode_head=dict(type='FCNHead', in_channels=16, in_index=0, channels=16, num_convs=0, concat_input=False,
                     num_classes=11, dropout_ratio=0.0, norm_cfg=None, loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=pipeline))
test_dataloader = val_dataloader
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False,
                        dataset=dict(data_root=data_root, pipeline=pipeline))
"""
REDUCED = "_base_ = ['dense.py']\nmodel = dict(backbone=dict(reducer={}))\n"
SETTINGS = dict(
    pooled="dict(type='mmtoken.AvgPool', layer=1, grid=0.5)",
    tome="dict(type='mmtoken.ToMe', r=8)",
    loud="dict(type='mmtoken.Loud', part=1.0, layer=2)",
    stacked="[dict(type='mmtoken.AvgPool', layer=1, grid=0.5), dict(type='mmtoken.ToMe', r=4, layers=[2, 3])]",
)


@pytest.fixture(scope='session')
def town(tmp_path_factory) -> Path:
    """Four pictures of 8×6 patches; ``dense.py`` and others; ``weights.pth``."""
    from mmtoken.analysis.loading import build_model, read_config
    from mmtoken.testing import randomize

    folder, rng = tmp_path_factory.mktemp('town'), np.random.default_rng(0)
    for split in ('train', 'val'):
        for kind in ('images', 'labels'):
            (folder / 'data' / kind / split).mkdir(parents=True)
        for i in range(4):
            label = cv2.resize(rng.integers(0, 11, (3, 4), dtype=np.uint8), (112, 84), interpolation=cv2.INTER_NEAREST)
            image = np.repeat(label[..., None] * 20, 3, axis=2) + rng.integers(0, 20, (84, 112, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / 'data' / 'images' / split / f'{i}.jpg'), image)
            cv2.imwrite(str(folder / 'data' / 'labels' / split / f'{i}.png'), label)
    (folder / 'dense.py').write_text(DENSE.format(base=f'{ROOT}/configs/_base_/', data=str(folder / 'data')))
    for name, reducer in SETTINGS.items():
        (folder / f'{name}.py').write_text(REDUCED.format(reducer))
    torch.manual_seed(0)
    model = build_model(read_config(folder / 'dense.py'))
    randomize(model.backbone)
    torch.save(dict(state_dict=model.state_dict()), folder / 'weights.pth')
    return folder


@pytest.fixture
def steady(monkeypatch):
    """A machine whose speed is its MACs."""

    def interleave(calls, rounds, warmup, *, inputs, device):
        return {name: [call.__self__.macs().total / 1e9] * rounds for name, call in calls.items()}

    monkeypatch.setattr('mmtoken.analysis.tradeoff.interleave', interleave)


@pytest.fixture
def call(monkeypatch):
    """Runs a tool of ``tools/analysis_tools`` in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(tool, *argv):
        spec = importlib.util.spec_from_file_location(tool, ROOT / 'tools' / 'analysis_tools' / f'{tool}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, 'argv', [f'{tool}.py', *map(str, argv)])
        monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())  # a runner's scope ends with the tool
        module.main()

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def refuses(call, capsys):
    """Expects a tool to end with code 2 and one line that holds all the given words."""

    def check(tool, *argv, words):
        with pytest.raises(SystemExit) as caught:
            call(tool, *argv)
        message = str(caught.value)
        assert '\n' not in message and all(word in message for word in words), message
        assert caught.value.code == 2 and capsys.readouterr().err.splitlines()[-1] == message

    return check


STREET = """
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[10, 20, 30], std=[1, 1, 1], bgr_to_rgb=True, size=(32, 48)),
    backbone=dict(type='{backbone}', img_size=(32, 48), patch_size=8, embed_dims=16, num_layers=4, num_heads=2),
    decode_head=dict(type='FCNHead', in_channels=16, channels=8, num_convs=1, num_classes=3, in_index=0),
    auxiliary_head=dict(type='PSPHead', in_channels=16, channels=8, num_classes=3, in_index=0, pool_scales=(1, 2),
                        norm_cfg=dict(type='BN')),
    test_cfg=dict(mode='whole'))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3))
test_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(
    type='BaseSegDataset', data_root={root!r}, data_prefix=dict(img_path='street'), img_suffix='.png',
    metainfo=dict(classes=('a', 'b', 'c')), test_mode=True, pipeline=[
        dict(type='LoadImageFromFile'), dict(type='Resize', scale_factor=0.8), dict(type='PackSegInputs')]))
"""


@pytest.fixture
def configs(tmp_path):
    """A folder with three configs, three pictures, and two pictures of other sizes in ``street``."""
    for name, backbone in (('stock', 'VisionTransformer'), ('dense', 'mmtoken.TokenVisionTransformer')):
        (tmp_path / f'{name}.py').write_text(STREET.format(backbone=backbone, root=str(tmp_path)))
    (tmp_path / 'pooled.py').write_text(
        "_base_ = ['dense.py']\nmodel = dict(backbone=dict(reducer=dict(type='mmtoken.AvgPool', layer=2)))\n"
    )
    rng = np.random.default_rng(0)
    (tmp_path / 'pictures').mkdir()
    (tmp_path / 'street').mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / f'pictures/{i}.png'), rng.integers(0, 255, (40, 60, 3), np.uint8))
    for i, size in enumerate([(40, 60), (60, 80)]):
        cv2.imwrite(str(tmp_path / f'street/{i}.png'), rng.integers(0, 255, (*size, 3), np.uint8))
    return tmp_path


@pytest.fixture
def run(call, capsys):
    """Runs an analysis tool in this process and gives what it printed."""

    def printed(*args):
        capsys.readouterr()
        call(*args)
        return capsys.readouterr().out

    return printed


@pytest.fixture
def model_macs():
    """MACs of the models in ``configs``; blocks 2 and 3 on ``after`` tokens."""
    # for each patch: conv, conv over its input and output, classifier
    head = 16 * 8 * 9 + (16 + 8) * 8 * 9 + 8 * 3

    def macs(patches, after=None):
        blocks = [12 * (n + 1) * 16**2 + 2 * (n + 1) ** 2 * 16 for n in (patches, after or patches)]
        return patches * 3 * 64 * 16 + 2 * sum(blocks) + patches * head

    return macs
