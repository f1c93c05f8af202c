"""The analysis tools on a depth estimator, whose RMSE is better lower."""

import json

import cv2
import numpy as np
import pytest
import torch

from mmtoken.analysis.loading import build_model, read_config
from mmtoken.testing import randomize

from .conftest import ROOT

ROOM = """
_base_ = [{base!r} + name for name in ('models/dinov2_small_dpt-depth.py', 'datasets/rgbd.py', 'default_runtime.py')]
data_root = {data!r}
pipeline = [dict(step, scale=(112, 84)) if step['type'] == 'Resize' else step for step in _base_.test_pipeline]
model = dict(
    data_preprocessor=dict(size=(84, 112)),
    backbone=dict(_delete_=True, type='mmtoken.TokenDINOv2', img_size=112, out_indices=(0, 1, 2, 3),
                  arch=dict(embed_dims=16, num_layers=4, num_heads=2),
                  reducer=dict(type='mmtoken.AvgPool', layer=1, grid=0.5)),
    decode_head=dict(embed_dims=16, post_process_channels=[4] * 4, channels=4))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root, pipeline=pipeline))
test_dataloader = val_dataloader
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-3))
"""
pytestmark = pytest.mark.usefixtures('plain_dumps')


@pytest.fixture(scope='module')
def room(tmp_path_factory):
    """Two pictures of 8×6 patches with depths, ``config.py`` and ``weights.pth``."""
    folder, rng = tmp_path_factory.mktemp('room'), np.random.default_rng(0)
    (folder / 'data/val').mkdir(parents=True)
    for i in range(2):
        cv2.imwrite(str(folder / f'data/val/{i}.jpg'), rng.integers(0, 255, (84, 112, 3), np.uint8))
        cv2.imwrite(str(folder / f'data/val/{i}.png'), rng.integers(500, 4000, (84, 112), np.uint16))
    (folder / 'config.py').write_text(ROOM.format(base=f'{ROOT}/configs/_base_/', data=str(folder / 'data')))
    torch.manual_seed(0)
    model = build_model(read_config(folder / 'config.py'))
    randomize(model)
    torch.save(dict(state_dict=model.state_dict()), folder / 'weights.pth')
    return folder


def test_a_tradeoff_of_rmse(room, call, steady, tmp_path, capsys):
    sweep = ['--sweep', 'reducer.grid=0.67', '--smaller-input', '0.5', '--metric', 'rmse', '--rounds', '1']
    call('tradeoff', room / 'config.py', room / 'weights.pth', *sweep, '--work-dir', tmp_path)
    out = json.loads((tmp_path / 'tradeoff.json').read_text())
    assert out['metric'] == 'rmse' and out['lower_is_better']
    dense, smaller, pooled = out['rows']
    assert [smaller['kind'], pooled['kind']] == ['smaller input', 'reduced']
    assert all({'rmse', 'abs_rel', 'd1'} <= row['metrics'].keys() for row in out['rows'])
    assert dense['macs'] > pooled['macs'] > smaller['macs'] and not dense['missed']

    model = build_model(read_config(room / 'config.py', {'model.backbone.reducer': None}), str(room / 'weights.pth'))
    errors = []
    for i in range(2):
        picture = torch.from_numpy(cv2.imread(str(room / f'data/val/{i}.jpg'))).permute(2, 0, 1)
        inputs = model.data_preprocessor(dict(inputs=[picture], data_samples=None))['inputs']
        with torch.no_grad():
            depth = model.predict(inputs)[0].pred_depth_map.data[0]
        truth = torch.from_numpy(cv2.imread(str(room / f'data/val/{i}.png'), -1).astype(np.float32)) / 1000
        errors.append((depth - truth).square().mean().sqrt())
    assert dense['metrics']['rmse'] == pytest.approx(float(sum(errors) / 2), rel=1e-5)


def test_flops_times_and_tokens(room, call, tmp_path, capsys):
    call('get_flops', room / 'config.py', '--json', tmp_path / 'flops.json')
    flops = json.loads((tmp_path / 'flops.json').read_text())
    assert flops['tokens']['mean'] == [48, 12, 12, 12] and flops['split']['heads'][0] > 0 and not flops['missed']
    options = ['--shape', 84, 112, '--rounds', 5, '--warmup', 1, '--device', 'cpu', '--no-smaller-input', '--train']
    call('benchmark', room / 'config.py', *options, '--json', tmp_path / 'bench.json')
    assert json.loads((tmp_path / 'bench.json').read_text())['rows'][0]['macs'] == flops['macs'][0]
    out = tmp_path / 'tokens.png'
    call('vis_tokens', room / 'config.py', room / 'weights.pth', room / 'data/val/0.jpg', '--out', out)
    assert cv2.imread(str(out)) is not None and 'tokens in each block: 48, 12, 12, 12' in capsys.readouterr().out


def test_bad_depths_end_a_tool_with_one_line(room, refuses, tmp_path):
    (tmp_path / 'val').mkdir()
    for name in ('0.jpg', '0.png'):
        (tmp_path / 'val' / name).write_bytes((room / 'data/val' / name).read_bytes())
    args = ['tradeoff', room / 'config.py', room / 'weights.pth', '--sweep', 'reducer.grid=0.5', '--metric', 'rmse']
    args += ['--work-dir', tmp_path / 'out', '--cfg-options', f'val_dataloader.dataset.data_root={tmp_path}']
    cv2.imwrite(str(tmp_path / 'val/0.png'), np.zeros((84, 112), np.uint16))
    refuses(*args, words=['0.png: holds no depth in metres'])
    (tmp_path / 'val/0.png').unlink()
    refuses(*args, words=['0.png: cannot be read as a depth map'])
