"""ONNX files of small models, held against PyTorch in ONNX Runtime."""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import mmtoken
from mmtoken.analysis.loading import build_model, read_config
from mmtoken.deployment import OUTPUTS, Servable, compare, export_onnx, forbidden_operators, operators, session
from mmtoken.deployment.runtime import run
from mmtoken.engine.errors import UserError

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')
ROOT = Path(__file__).parents[1]
SIZE = (28, 42)
CONFIG = """
reducer = None
model = dict(
    type='mmtoken.TokenEncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0],
                           bgr_to_rgb=True, size=(28, 42)),
    backbone=dict(type='mmtoken.TokenDINOv2', arch=dict(embed_dims=16, num_layers=2, num_heads=2), img_size=28,
                  patch_size=7, reducer=reducer),
    decode_head=dict(type='FCNHead', in_channels=16, in_index=0, channels=16, num_convs=0, concat_input=False,
                     num_classes=5, norm_cfg=None, loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
"""
METHODS = dict(
    dense=None,
    tome=dict(type='mmtoken.ToMe', r=4),
    expedit=dict(type='mmtoken.Expedit', layer=1, grid=0.5, iterations=1, window=3),
    mixed=dict(type='mmtoken.MixedScale', fine=0.5),
)


@pytest.fixture
def config(tmp_path):
    def write(method: str = 'dense') -> str:
        path = tmp_path / f'{method}.py'
        code = repr(METHODS[method]) if method in METHODS else method
        path.write_text(CONFIG.replace('reducer = None', f'reducer = {code}'))
        return str(path)

    return write


def tool(name: str, *args) -> int:
    """Runs a tool's main in this process; returns its exit code."""
    spec = importlib.util.spec_from_file_location(name, ROOT / 'tools/deployment' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before, sys.argv = sys.argv, [name, *map(str, args)]
    try:
        module.main()
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return 0


@pytest.mark.parametrize('method', METHODS)
def test_a_graph_of_any_batch_equals_torch(method, config, tmp_path, caplog):
    torch.manual_seed(0)
    servable = Servable(build_model(read_config(config(method))), 'softmax').eval()
    path = tmp_path / 'model.onnx'
    export_onnx(servable, torch.randn(1, 3, *SIZE), path, any_batch=True, metadata=dict(note='x'))
    assert not [record for record in caplog.records if record.name.startswith('onnxscript') and record.levelno > 20]
    runner = session(path, threads=1)
    assert runner.get_modelmeta().custom_metadata_map['note'] == 'x'
    assert [out.name for out in runner.get_outputs()] == ['output']
    for batch in (1, 3):
        images = torch.randn(batch, 3, *SIZE)
        with torch.no_grad():
            found = compare(list(servable(images)), run(runner, images))
        assert found['relative'] < 1e-5 and found['agreement'] == 1
    assert not forbidden_operators(path)
    # What the page says that an engine needs.
    page = (ROOT / 'tools/deployment/README.md').read_text()
    assert not [name for name in operators(path) if f'`{name}`' not in page]


def test_from_config_to_timed_files(config, tmp_path, capsys):
    files = [tmp_path / name for name in ('dense.onnx', 'half.onnx')]
    assert tool('export', config(), '--out', files[0], '--output', 'labels', '--pixels', '--dynamic', 'batch') == 0
    printed = capsys.readouterr().out
    assert 'equal labels 100.00%' in printed and 'MatMul' in printed
    about = session(files[0]).get_modelmeta().custom_metadata_map
    assert json.loads(about['mean']) == [120.0, 110.0, 100.0] and len(json.loads(about['classes'])) == 5
    assert int(about['macs']) > 0 and about['mmtoken'] == mmtoken.__version__ and about['reducer'] == 'null'
    assert tool('export', config(), '--out', files[1], '--output', 'labels', '--fp16', '--tolerance', 1) == 0
    assert files[1].stat().st_size < 0.8 * files[0].stat().st_size
    report = tmp_path / 'report.json'
    assert tool('benchmark_onnx', files[0], '--int8', '--rounds', 5, '--threads', 1, '--json', report) == 0
    rows = json.loads(report.read_text())['rows']
    assert [row['name'] for row in rows] == ['dense', 'dense-int8']
    assert rows[0]['agreement'] == 1 and len(rows[1]['seconds']) == 5
    flags = ['--rounds', 5, '--threads', 1, '--json', report]
    assert tool('benchmark_onnx', files[0], '--images', tmp_path, *flags) == 2
    assert f"--images='{tmp_path}' holds no pictures" in capsys.readouterr().err
    for i in range(3):
        assert cv2.imwrite(str(tmp_path / f'{i}.png'), np.full((9, 7, 3), 90 * i, np.uint8))
    assert tool('benchmark_onnx', files[0], '--images', tmp_path, '--num', 2, *flags) == 0
    assert '2 pictures' in capsys.readouterr().out


def test_pixels_are_normalised_as_the_preprocessor_does_it(config):
    model = build_model(read_config(config()))
    pixels = torch.randint(0, 256, (2, 3, *SIZE)).float()
    data = model.data_preprocessor(dict(inputs=list(pixels), data_samples=None), False)
    assert torch.allclose(Servable(model, pixels=True).normalised(pixels), data['inputs'], atol=1e-6)


def test_detectors_give_raw_outputs(tmp_path):
    path = tmp_path / 'det.py'
    path.write_text("""
default_scope = 'mmdet'
model = dict(
    type='mmtoken.TokenRetinaNet',
    backbone=dict(type='mmtoken.TokenDINOv2', arch=dict(embed_dims=16, num_layers=2, num_heads=2), img_size=28,
                  patch_size=7, fit='pad', reducer=dict(type='mmtoken.ToMe', r=4)),
    neck=dict(type='FPN', in_channels=[16], out_channels=8, num_outs=1),
    bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=8, stacked_convs=0, feat_channels=8,
                   anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[7]),
                   bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
    test_cfg=dict(nms_pre=10, min_bbox_size=0, score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5),
                  max_per_img=5))
""")
    assert tool('export', path, '--out', tmp_path / 'det.onnx', '--shape', *SIZE) == 0
    outputs = session(tmp_path / 'det.onnx').get_outputs()
    assert [out.shape for out in outputs] == [[1, 3, 4, 6], [1, 4, 4, 6]]
    assert tool('export', path, '--out', tmp_path / 'det.onnx', '--shape', *SIZE, '--output', 'labels') == 2


@pytest.mark.parametrize(
    'extra, line',
    [
        (['--opset', 3], '--opset 3: give one of'),
        (['--out', '/proc/nowhere/a.onnx'], '--out'),
        (['--shape', 0, 5], '--shape'),
        (['--images', 'no-such-folder'], 'no-such-folder'),
        (['--device', 'cuda:99'], 'cuda'),
    ],
)
def test_bad_input_is_one_line(extra, line, config, tmp_path, capsys):
    assert tool('export', config(), '--out', tmp_path / 'a.onnx', *extra) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and '\n' not in error
    assert not (tmp_path / 'a.onnx').exists()


def test_a_dynamic_method_names_static_ones(config, tmp_path, capsys):
    exits = repr(dict(type='mmtoken.MixedScale', threshold=0.5))
    assert tool('export', config(exits), '--out', tmp_path / 'a.onnx') == 2
    assert 'depends on the picture' in (error := capsys.readouterr().err) and 'mmtoken.ToMe' in error


def test_a_missing_package_is_named(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert tool('export', config(), '--out', tmp_path / 'a.onnx') == 2
    assert "pip install 'mmtoken[export]'" in capsys.readouterr().err


@pytest.mark.parametrize('extra, line', [([], 'ONNX Runtime cannot run'), (['--device', 'cuda'], '--device cuda')])
def test_a_file_that_cannot_be_timed_is_one_line(extra, line, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('onnxruntime.get_available_providers', lambda: ['CPUExecutionProvider'])
    (tmp_path / 'broken.onnx').write_text('no graph')
    assert tool('benchmark_onnx', tmp_path / 'broken.onnx', *extra) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and '\n' not in error


def test_a_checkpoint_without_the_parameters_of_the_method(config, tmp_path, capsys):
    torch.save(build_model(read_config(config())).state_dict(), tmp_path / 'dense.pth')
    learned = repr(dict(type='mmtoken.MixedScale', fine=0.5, selector='learned'))
    assert tool('export', config(learned), tmp_path / 'dense.pth', '--out', tmp_path / 'a.onnx') == 2
    error = capsys.readouterr().err.strip()
    assert 'reducer.selector' in error and 'is missing' in error and '\n' not in error


def test_outputs_that_a_model_does_not_have(config):
    model = build_model(read_config(config()))
    with pytest.raises(UserError, match='--output'):
        Servable(model.backbone, 'labels')
    assert OUTPUTS[0] == 'raw' and len(Servable(model.backbone)(torch.randn(1, 3, *SIZE))) == 1
