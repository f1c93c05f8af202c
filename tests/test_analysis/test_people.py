"""The analysis tools on a human mesh model, whose pictures are drawn and lie in no files."""

import json

import cv2
import numpy as np
import pytest
import torch

from mmtoken.analysis.loading import build_model, read_config
from mmtoken.analysis.variants import smaller_input
from mmtoken.engine.configs import datasets_of
from mmtoken.engine.digests import data_digest

CONFIG = """
default_scope = 'mmdet'
model = dict(
    type='mmtoken.TokenHumanMesh',
    data_preprocessor=dict(type='mmdet.DetDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, pad_size_divisor=56),
    backbone=dict(type='mmtoken.TokenDINOv2', arch=dict(embed_dims=32, num_layers=3, num_heads=2), img_size=112,
                  table='resize', fit='pad', reducer=dict(type='mmtoken.SAT', blocks=1, confidence=0.0, scale=0.5)),
    input_size=112, num_queries=4, decoder=dict(dims=32, layers=1, heads=2, hidden=64), denoising=dict(groups=1),
    test_cfg=dict(score_thr=0.0))
val_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmtoken.SyntheticCrowd', length=9, size=(112, 112), people=(1, 2), scales=(0.3, 0.9),
                 test_mode=True, pipeline=[dict(type='mmtoken.PackPeople')]))
val_evaluator = dict(type='mmtoken.HumanMeshMetric', score_thr=0.0, iou_thr=0.0, scale_bins=())
val_cfg = dict(type='ValLoop')
test_dataloader, test_evaluator, test_cfg = val_dataloader, val_evaluator, dict(type='TestLoop')
"""
pytestmark = pytest.mark.usefixtures('plain_dumps')


@pytest.fixture
def crowd(tmp_path_factory):
    """``config.py`` and ``weights.pth``."""
    folder = tmp_path_factory.mktemp('crowd')
    (folder / 'config.py').write_text(CONFIG)
    torch.manual_seed(0)
    torch.save(dict(state_dict=build_model(read_config(folder / 'config.py')).state_dict()), folder / 'weights.pth')
    return folder


def test_a_tradeoff_on_the_first_of_pictures_that_are_drawn(crowd, call, steady, tmp_path, capsys):
    flags = ['--metric', 'MVE', '--sweep', 'reducer.scale=0.4,0.6', '--smaller-input', '0.5']
    flags += ['--num', 2, '--pictures', 2, '--rounds', 1, '--work-dir', tmp_path]
    call('tradeoff', crowd / 'config.py', crowd / 'weights.pth', *flags)
    out = json.loads((tmp_path / 'tradeoff.json').read_text())
    dense, smaller, *sat = out['rows']
    assert out['lower_is_better'] and [row['images'] for row in out['rows']] == [2] * 4
    assert all(row['metrics']['MVE'] > 0 for row in out['rows'])
    assert dense['macs'] > max(smaller['macs'], sat[0]['macs']) and smaller['kind'] == 'smaller input'
    assert sat[0]['macs'] < sat[1]['macs']  # more people count as small
    assert capsys.readouterr().out.count('on the first 2 images only') == 4


def test_smaller_pictures_shrink_with_their_camera(crowd):
    cfg = read_config(crowd / 'config.py')
    for factor, side in ((0.5, 56), (0.8, 112), (0.3, 56)):
        small = smaller_input(cfg, factor, 14)
        assert small.model.input_size == side and cfg.model.input_size == 112
        assert small.val_dataloader.dataset.pipeline == [
            dict(type='mmtoken.ResizePeople', side=side),
            dict(type='mmtoken.PackPeople'),
        ]
    load = [
        dict(type='mmtoken.LoadPeople'),
        dict(type='mmtoken.ResizePeople', side=112),
        dict(type='mmtoken.PackPeople'),
    ]
    cfg.val_dataloader.dataset.pipeline = load
    small = smaller_input(cfg, 0.5, 14).val_dataloader.dataset.pipeline
    assert [step.type for step in small] == [step['type'] for step in load] and small[1].side == 56


def test_a_dataset_without_files_is_one_and_is_not_drawn_to_look_for_them(crowd, monkeypatch):
    cfg = read_config(crowd / 'config.py')
    ((key, dataset),) = datasets_of(cfg.val_dataloader, 'val_dataloader')
    assert key == 'val_dataloader.dataset' and dataset.length == 9
    kept = dict(type='mmtoken.KeptDataset', dataset=dataset)
    assert [found for _, found in datasets_of(dict(dataset=kept), '')] == [dataset]
    monkeypatch.setattr('mmtoken.hmr.data.synthetic.crowd.CrowdRenderer.render', None)
    assert data_digest(cfg, 'val') == data_digest(cfg, 'test')


def test_meshes_and_the_scale_map_beside_the_tokens(crowd, call, tmp_path, capsys, monkeypatch):
    from mmtoken.analysis import figures

    cv2.imwrite(str(tmp_path / 'a.png'), np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8))
    drawn = {}
    monkeypatch.setattr(figures, 'tokens_figure', lambda *args: drawn.update(args[-1]) or figures.Figure())
    call('vis_tokens', crowd / 'config.py', crowd / 'weights.pth', tmp_path / 'a.png', '--out', tmp_path / 'out.png')
    assert [name.partition(':')[0] for name in drawn] == ['prediction', 'scale map', 'prediction of the dense model']
    assert all(image.shape == (112, 112, 3) and image.dtype == np.uint8 for image in drawn.values())
    assert 'vertex distance' in capsys.readouterr().out and (tmp_path / 'out.png').is_file()
