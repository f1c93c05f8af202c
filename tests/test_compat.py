"""Each of upstream's faults that mmtoken.compat answers (the mmcv ops: test_ext_standin.py)."""

import os
import pickle
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import mmtoken
from mmtoken import compat

ROOT = Path(mmtoken.__file__).parents[1]
UPSTREAM_BASE = 'mmseg::_base_/default_runtime.py'


def run(code: str, *paths: Path, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter, with ``paths`` before everything else."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, [*paths, ROOT])), PYTHONWARNINGS='default')
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)], env=env, cwd=cwd, text=True, capture_output=True
    )
    assert not check or done.returncode == 0, done.stderr
    return done


# ------------------------------------------------------------------------------------------------------------ import
def test_import_is_light():
    run("""
        import sys, mmtoken
        heavy = {'torch', 'numpy', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'torchvision'} & set(sys.modules)
        assert not heavy, heavy
    """)


def test_core_needs_torch_numpy_fvcore_only():
    run("""
        import sys

        class Nothing:
            def find_spec(self, name, path=None, target=None):
                if name.split('.')[0] in ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'torchvision', 'cv2'):
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Nothing())
        import mmtoken, mmtoken.core
    """)


def test_apply_twice_is_once():
    before = list(sys.meta_path)
    compat.apply()
    assert sys.meta_path == before


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv('MMTOKEN_NO_COMPAT', '1')
    run("""
        import sys
        before = list(sys.meta_path)
        import mmtoken
        assert sys.meta_path == before
    """)
    monkeypatch.setenv('MMTOKEN_NO_COMPAT', '0')
    run("""
        import sys
        before = list(sys.meta_path)
        import mmtoken
        assert len(sys.meta_path) == len(before) + 2
    """)


# ------------------------------------------------------------------------------------------------ (a) package::config
def test_upstream_configs_by_package_name(tmp_path):
    (tmp_path / 'c.py').write_text(f"_base_ = ['{UPSTREAM_BASE}', 'mmdet::_base_/schedules/schedule_1x.py']")
    run(
        """
        import mmtoken
        from mmengine.config import Config
        cfg = Config.fromfile('c.py')
        assert cfg.default_scope == 'mmseg' and cfg.train_cfg.max_epochs == 12
    """,
        cwd=tmp_path,
    )


def test_names_of_distributions_stay_where_they_are_installed(monkeypatch):
    installed = {'mmsegmentation'}
    monkeypatch.setattr(compat, '_distribution', lambda name: name if name in installed else None)
    module = types.SimpleNamespace(MODULE2PACKAGE=dict(mmseg='mmsegmentation', mmdet='mmdet'))
    compat._name_packages(module, lambda m: None)
    assert (
        dict(mmseg='mmsegmentation', mmdet='mmdet', mmpretrain='mmpretrain', mmtoken='mmtoken') == module.MODULE2PACKAGE
    )
    installed.clear()  # the other family
    compat._name_packages(module, lambda m: None)
    assert module.MODULE2PACKAGE['mmseg'] == 'mmseg'


# ------------------------------------------------------------------------------------------------ (b) no pkg_resources
@pytest.mark.parametrize('first', ['mmtoken', 'mmengine.config, mmengine.hub'])
def test_no_pkg_resources(first):
    run(f"""
        import os, sys
        sys.modules['pkg_resources'] = None  # as with setuptools >= 82: importing it raises ImportError
        import {first}
        import mmtoken
        from mmengine.hub import get_config
        from mmengine.utils import get_installed_path, is_installed
        from mmengine.utils.package_utils import package2module
        assert get_config('{UPSTREAM_BASE}').default_scope == 'mmseg'
        assert is_installed('mmengine') and is_installed('mmseg') and not is_installed('no_such_package')
        for name in ('mmseg', 'mmtoken'):
            path = get_installed_path(name)
            assert os.path.isabs(path) and os.path.isfile(os.path.join(path, '__init__.py'))
        assert package2module('fvcore') == 'fvcore'
        try:
            get_installed_path('no_such_package')
        except ImportError as error:
            assert 'no_such_package' in str(error)
        else:
            raise AssertionError
    """)


# -------------------------------------------------------------------------------------------------- (c) checkpoints
def make_runner(work_dir: Path, iters: int, **kwargs):
    from mmengine.evaluator import BaseMetric
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Line(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, x, y, mode='tensor'):
            error = (self.layer(x) - y).square().mean()
            return dict(loss=error) if mode == 'loss' else [error]

    class Error(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results.append(data_samples[0].item())

        def compute_metrics(self, results):
            return dict(error=np.float32(np.mean(results)))

    data = [(torch.randn(2), torch.randn(1)) for _ in range(8)]
    loader = dict(
        dataset=data,
        sampler=dict(type='DefaultSampler', shuffle=False),
        batch_size=4,
        num_workers=0,
        collate_fn=dict(type='default_collate'),
    )
    return Runner(
        Line(),
        str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=iters, val_interval=2),
        val_cfg=dict(),
        test_cfg=dict(),
        val_evaluator=[Error()],
        test_evaluator=[Error()],
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.1)),
        param_scheduler=dict(type='CosineAnnealingLR', T_max=8, by_epoch=False),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2, save_best='error', rule='less'),
            logger=dict(type='LoggerHook', interval=1),
        ),
        default_scope='mmengine',
        experiment_name=f'{work_dir.name}{iters}',
        **kwargs,
    )


def test_resume_load_and_test_mmengines_own_checkpoint(tmp_path):
    make_runner(tmp_path, 2).train()
    path = tmp_path / 'iter_2.pth'
    with pytest.raises(pickle.UnpicklingError):  # the fault: without our types torch refuses the file
        trusted = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            torch.load(path)
        finally:
            torch.serialization.add_safe_globals(trusted)

    saved = torch.load(path)
    assert isinstance(saved['message_hub']['log_scalars']['train/loss']._log_history, np.ndarray)
    resumed = make_runner(tmp_path, 4, load_from=str(path), resume=True)
    resumed.train()
    assert resumed.iter == 4
    history = resumed.message_hub.get_scalar('train/loss')
    assert len(history.data[0]) == 4 and np.isfinite(history.mean())

    fresh = make_runner(tmp_path / 'other', 4, load_from=str(path))
    fresh.load_or_resume()
    assert torch.equal(fresh.model.layer.weight, saved['state_dict']['layer.weight'])
    assert fresh.iter == 0
    assert 'error' in make_runner(tmp_path / 'test', 4, load_from=str(path)).test()


def test_what_cannot_be_fetched_is_named(tmp_path, monkeypatch):
    """No such machine: torch's own text is ``<urlopen error …>``."""
    from mmengine.runner import CheckpointLoader

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(OSError, match=r'^http://127\.0\.0\.1:1/vit\.pth was not loaded: .*Fetch it by hand'):
        CheckpointLoader.load_checkpoint('http://127.0.0.1:1/vit.pth')


# ----------------------------------------------------------------------------------------------- (e) version windows
VERSION_GUARDED = """
    import mmcv
    mmcv.__version__ = '2.2.0'
    try:
        import mmseg
    except AssertionError:
        print('asserted')
"""


def test_version_windows_warn():
    if 'asserted' not in run(VERSION_GUARDED).stdout:
        pytest.skip('this mmseg has no window')
    done = run(
        'import mmtoken\n'
        + textwrap.dedent(VERSION_GUARDED)
        + textwrap.dedent("""
        import mmdet
        mmseg.__version__, mmseg.digit_version, mmdet.version_info  # defined below the assert
    """)
    )
    assert 'asserted' not in done.stdout
    assert 'MMCV==2.2.0 is used but incompatible' in done.stderr and 'Warning' in done.stderr


def test_own_windows_warn(monkeypatch):
    monkeypatch.setattr(compat, 'TESTED_VERSIONS', dict(some=('1.2', '2.0')))
    for version in ('1.1.9', '2.0.0', '2.0rc1'):
        with pytest.warns(UserWarning, match=f'some>=1.2,<2.0; this is {version}'):
            compat._warn_of_version(types.SimpleNamespace(__name__='some', __version__=version), lambda m: None)
    compat._warn_of_version(types.SimpleNamespace(__name__='some', __version__='1.10.3+cpu'), lambda m: None)


# ------------------------------------------------------------------------------------------- (f) a broken torchvision
@pytest.mark.parametrize('version, kept', [(None, True), ('4.48.3', True), ('4.57.1', False), ('5.24.0', False)])
def test_mmpretrain_leaves_its_models_of_language_out_beside_a_newer_transformers(monkeypatch, version, kept):
    found = version and types.SimpleNamespace(version=version)
    monkeypatch.setattr(compat, '_distribution', dict(transformers=found).get)
    module = types.ModuleType('mmpretrain.utils.dependency')
    compat._PATCHES[module.__name__](module, lambda module: setattr(module, 'WITH_MULTIMODAL', True))
    assert module.WITH_MULTIMODAL is kept


def test_broken_torchvision_leaves_mmseg_alone(tmp_path):
    (tmp_path / 'torchvision.py').write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / 'mmpretrain').mkdir()
    (tmp_path / 'mmpretrain' / '__init__.py').write_text("__version__ = '1.2.0'\nimport torchvision")
    broken = run(
        """
        import sys, unittest.mock
        sys.modules['mmcv._ext'] = unittest.mock.MagicMock()
        import mmseg.models
    """,
        tmp_path,
        check=False,
    )
    assert 'RuntimeError: operator torchvision::nms does not exist' in broken.stderr, 'the fault is gone'
    run(
        """
        import mmtoken
        import mmseg.models, mmdet.models, mmcv.ops, torch
        assert len(mmcv.ops.nms(torch.tensor([[0., 0, 1, 1]]), torch.tensor([1.]), 0.5)[1]) == 1
        try:
            import torchvision
        except ImportError as error:
            assert 'operator torchvision::nms does not exist' in str(error)
        else:
            raise AssertionError
        from mmengine.utils.dl_utils import collect_env  # guards its import for ModuleNotFoundError only
        assert 'TorchVision' not in collect_env()
    """,
        tmp_path,
    )


def test_torchvision_loads_without_its_operators(tmp_path):
    """A made-up torchvision that says more about its operators, as the real one does when it is imported."""
    (tmp_path / 'torchvision.py').write_text(
        """
import torch
__version__ = '0.28.0'
for name in ('nms', 'qnms'):
    torch.library.register_fake(f'torchvision::{name}')(lambda dets, scores, iou_threshold: dets)
"""
    )
    assert 'operator torchvision::nms does not exist' in run('import torchvision', tmp_path, check=False).stderr
    run(
        """
        import mmtoken, torch, torchvision
        try:
            torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        except NotImplementedError as error:
            assert 'torchvision::nms' in str(error)
        else:
            raise AssertionError
        from mmcv.ops import nms
        assert len(nms(torch.tensor([[0., 0, 1, 1]]), torch.tensor([1.]), 0.5)[1]) == 1
    """,
        tmp_path,
    )


def test_the_installed_torchvision_loads():
    pytest.importorskip('torchvision')
    run("""
        import mmtoken, torch
        from torchvision.transforms.v2 import Resize
        assert Resize((4, 6))(torch.zeros(3, 8, 8)).shape == (3, 4, 6)
    """)


# ------------------------------------------------------------------------------------------- (g) no `scipy…interp2d`
def test_beit_resizes_its_position_tables(tmp_path):
    """A cubic spline keeps a plane a plane, whatever the nodes are: checked through mmseg's own resizing."""
    from mmseg.models.backbones import BEiT

    host = BEiT(img_size=(32, 32), patch_size=4, embed_dims=16, num_layers=1, num_heads=2)
    key = 'layers.0.attn.relative_position_bias_table'
    source, target = 2 * 4 - 1, 2 * 8 - 1
    extra = torch.tensor([[5.0, -5.0]] * 3)
    flat = torch.full((source * source, 2), 3.0)
    resized = host.resize_rel_pos_embed({key: torch.cat([flat, extra])})[key]
    assert resized.shape == (target * target + 3, 2)
    torch.testing.assert_close(resized[:-3], torch.full((target * target, 2), 3.0))
    assert torch.equal(resized[-3:], extra)

    # A table that rises along x in the coordinates of the geometric nodes comes out as a straight line.
    nodes = _geometric_nodes(source, target)
    slope = torch.tensor(nodes).expand(source, source).reshape(-1, 1).repeat(1, 2).float()
    resized = host.resize_rel_pos_embed({key: torch.cat([slope, extra])})[key][:-3, 0].view(target, target)
    expected = torch.arange(target).float() - target // 2
    torch.testing.assert_close(resized, expected.clamp(nodes[0], nodes[-1]).expand(target, target), atol=1e-4, rtol=0)


def _geometric_nodes(source: int, target: int) -> list:
    """Where BEiT puts the entries of the small table: steps grow by q, and their sum reaches the large one's edge."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q ** (source // 2)) / (1 - q) > target // 2 else (q, high)
    right = [sum(q**k for k in range(i + 1)) for i in range(source // 2)]
    return [-r for r in reversed(right)] + [0.0] + right


# ------------------------------------------------------------------------------------- (i) files that are cut by a kill
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    from mmengine.fileio import LocalBackend
    from mmengine.runner import save_checkpoint

    backend, path = LocalBackend(), tmp_path / 'folder' / 'a.pth'
    backend.put(b'old', path)
    backend.put_text('text', str(tmp_path / 'b.txt'))
    assert (tmp_path / 'b.txt').read_text() == 'text'
    with pytest.raises(TypeError):  # half-way: the file is open by then
        backend.put(5, path)
    with pytest.raises(TypeError):
        backend.put_text(5, path)
    assert path.read_bytes() == b'old' and not list(path.parent.glob('.*'))
    save_checkpoint(dict(state_dict=dict(a=torch.ones(1))), str(path))
    assert torch.load(path)['state_dict']['a'] == 1
    link = tmp_path / 'latest.pth'
    link.symlink_to(path)
    backend.put(b'new', link)
    assert link.is_symlink() and path.read_bytes() == b'new'


# ------------------------------------------------------------------------------------- (h) one dropout layer for all
def test_attention_of_a_detector_leaves_that_of_a_vit_alone():
    from mmcv.cnn.bricks.transformer import MultiheadAttention

    with pytest.warns(DeprecationWarning):
        assert MultiheadAttention(8, 2, dropout=0.1).dropout_layer.p == 0.1
    assert getattr(MultiheadAttention(8, 2).dropout_layer, 'p', 0) == 0
    given = dict(type='DropPath', drop_prob=0.3)
    assert MultiheadAttention(8, 2, dropout_layer=given).dropout_layer.drop_prob == 0.3
    assert given == dict(type='DropPath', drop_prob=0.3)
    assert isinstance(MultiheadAttention(8, 2, dropout_layer=None).dropout_layer, torch.nn.Identity)
