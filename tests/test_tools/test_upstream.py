"""What ``tools/README.md`` says of upstream's own tools and of the Python API for detectors."""

from pathlib import Path

import mmdet
import mmseg
import pytest
from mmdet.apis import DetInferencer, inference_detector, init_detector

from .conftest import ROOT, call, shell
from .test_detection import boxes  # noqa: F401  a fixture


def upstream(package, tool):
    return Path(package.__file__).parent / '.mim/tools' / f'{tool}.py'


def with_imports(folder, config, *modules):
    """Writes a config that imports modules, as one that upstream's tools are to read."""
    path = folder / f'imports-{config}'
    path.write_text(f'_base_ = {config!r}\ncustom_imports = dict(imports={list(modules)!r})\n')
    return path.name


@pytest.mark.parametrize('installed', [ROOT / 'tools', ROOT / 'mmtoken/.mim/tools'])
def test_mim_finds_the_tools_and_the_configs(installed):
    if not installed.exists():
        pytest.skip('mmtoken is not installed here')
    assert (installed / 'train.py').is_file() and (installed / 'test.py').is_file()
    assert (installed.parent / 'configs').is_dir()


def test_train_py_of_mmseg_with_custom_imports(street):
    config = with_imports(street, 'config.py', 'mmtoken', 'kill_hook')
    short = ['--cfg-options', 'train_cfg.max_iters=1', 'train_cfg.val_interval=1']
    done = shell(street, 'python', upstream(mmseg, 'train'), config, '--work-dir', 'upstream', *short)
    assert done.returncode == 0 and 'mIoU' in done.stdout + done.stderr, done.stderr[-3000:]


def test_test_py_and_the_python_api_of_mmdet(boxes, monkeypatch):  # noqa: F811
    monkeypatch.chdir(boxes)
    short = ['--cfg-options', 'train_cfg.max_iters=1', 'train_cfg.val_interval=9']
    call('train', monkeypatch, 'retina.py', '--work-dir', 'api', *short)
    weights = 'api/iter_1.pth'
    # It imports compiled operators before it reads a config, so the hooks come first.
    done = shell(boxes, 'python', '-m', 'mmtoken', upstream(mmdet, 'test'), 'retina.py', weights, '--work-dir', 'api')
    assert done.returncode == 0 and 'bbox_mAP' in done.stdout + done.stderr, done.stderr[-3000:]

    model = init_detector('retina.py', weights, palette='random', device='cpu')
    found = inference_detector(model, 'data/images/0.png').pred_instances
    inferencer = DetInferencer('retina.py', weights, device='cpu', palette='random')
    said = inferencer('data/images/0.png', no_save_vis=True)['predictions'][0]
    assert type(inferencer.model.backbone.reducer).__name__ == 'ToMe'
    assert len(found.scores) and found.scores.tolist() == pytest.approx(said['scores'])
