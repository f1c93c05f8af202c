"""Upstream's scripts and Python API, as a user runs them: through ``python -m mmtoken`` or after ``import mmtoken``."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import mmseg
import numpy as np
import pytest

import mmtoken
from mmtoken.__main__ import always

ROOT = Path(mmtoken.__file__).parents[1]
INDEX = any((folder / 'model-index.yml').exists() for folder in (ROOT, ROOT / 'mmtoken/.mim'))
NAME = 'tome-k50_segmenter_vit-t_mask_8xb1-160k_ade20k-512x512'


def run(*command, cwd, code=0):
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', *map(str, command)], env=env, cwd=cwd, text=True, capture_output=True
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


def script(folder: Path, text: str) -> Path:
    (folder / 'mine.py').write_text(textwrap.dedent(text))
    return folder / 'mine.py'


def test_a_script_runs_as_python_runs_it(tmp_path):
    (tmp_path / 'beside.py').write_text('value = 3')
    path = script(
        tmp_path,
        """
        import sys, beside
        assert __name__ == '__main__' and sys.argv == [__file__, '--flag', 'x y'], sys.argv
        import mmseg.apis, mmcv._ext  # the compiled module that mmcv-lite lacks
        print('ran', beside.value)
        sys.exit(5)
        """,
    )
    assert run('-m', 'mmtoken', path, '--flag', 'x y', cwd=tmp_path, code=5).stdout == 'ran 3\n'
    done = run('-m', 'mmtoken', '-m', 'mine', '--flag', 'x y', cwd=tmp_path, code=5)
    assert done.stdout == 'ran 3\n'


def test_what_it_cannot_run_is_one_line(tmp_path):
    assert run('-m', 'mmtoken', 'gone.py', cwd=tmp_path, code=2).stderr == 'no such script: gone.py\n'
    assert 'python -m mmtoken SCRIPT' in run('-m', 'mmtoken', cwd=tmp_path, code=2).stderr
    assert 'python -m mmtoken SCRIPT' in run('-m', 'mmtoken', '--help', cwd=tmp_path).stdout


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_tools_of_upstream(tmp_path, tool):
    path = Path(mmseg.__file__).parent / '.mim' / 'tools' / f'{tool}.py'
    assert f'usage: {tool}.py' in run('-m', 'mmtoken', path, '--help', cwd=tmp_path).stdout


def test_python_api_of_upstream(tmp_path):
    """The README's section: models by config or by name, pictures in, labels out."""
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.randint(0, 255, (64, 80, 3), np.uint8))
    path = script(
        tmp_path,
        f"""
        import mmtoken, torch
        from mmengine.hub import get_config, get_model
        from mmseg.apis import MMSegInferencer, inference_model, init_model

        cfg = get_config('mmtoken::tome/{NAME}.py')
        cfg.model.test_cfg = dict(mode='whole')
        model = init_model(cfg, device='cpu')
        assert type(model.backbone).__name__ == 'TokenVisionTransformer'
        labels = inference_model(model, 'a.png').pred_sem_seg.data
        assert labels.shape == (1, 64, 80)
        assert type(get_model('mmtoken::tome/{NAME}.py')).__name__ == type(model).__name__        """,
    )
    run(path, cwd=tmp_path)


@pytest.mark.skipif(not INDEX, reason='make setup has not been run here: no model index')
def test_models_by_name(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.randint(0, 255, (64, 80, 3), np.uint8))
    path = script(
        tmp_path,
        f"""
        import mmtoken, torch
        from mmengine.hub import get_model
        from mmseg.apis import MMSegInferencer

        model = get_model('mmtoken::tome/{NAME}.py')
        torch.save(dict(state_dict=model.state_dict()), 'mine.pth')
        assert '{NAME}' in MMSegInferencer.list_models('mmtoken')
        infer = MMSegInferencer('{NAME}', weights='mine.pth', dataset_name='ade20k', device='cpu')
        infer.model.test_cfg.mode = 'whole'
        assert infer('a.png')['predictions'].shape == (64, 80)
        state = infer.model.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        """,
    )
    run(path, cwd=tmp_path)


def test_detectors_of_upstream(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.random.randint(0, 255, (64, 80, 3), np.uint8))
    path = script(
        tmp_path,
        """
        from mmdet.apis import DetInferencer
        from mmengine.hub import get_config

        cfg = get_config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py')
        cfg.model.backbone.init_cfg = None
        out = DetInferencer(cfg, device='cpu', palette='random')('a.png', no_save_vis=True)
        assert set(out['predictions'][0]) >= {'bboxes', 'labels', 'scores'}
        """,
    )
    run('-m', 'mmtoken', path, cwd=tmp_path)


def test_every_python_if_wanted(tmp_path, monkeypatch):
    monkeypatch.setattr('sysconfig.get_path', lambda name: str(tmp_path))
    assert 'mmtoken-always.pth' in always('on')
    code = f"""
        import site, sys
        site.addsitedir({str(tmp_path)!r})
        assert 'mmtoken' in sys.modules
    """
    run('-c', textwrap.dedent(code), cwd=tmp_path)
    always('off')
    assert not list(tmp_path.glob('*.pth'))
    always('off')
