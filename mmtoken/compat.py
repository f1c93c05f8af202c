"""What papers over the rough edges of upstream versions, and nothing else.

:func:`apply` runs when mmtoken is imported, before or after any OpenMMLab package, and imports none of them: each patch
waits in an import hook until the module that it mends is loaded (one that is loaded already is mended at once). Every
patch names the upstream fault that it answers, so that it can go when the fault does.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import inspect
import os
import os.path as osp
import pickle
import re
import secrets
import sys
import warnings
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

#: Versions known to work, as (lowest, first too new), over both families. Outside of them mmtoken only warns.
TESTED_VERSIONS = {
    'mmengine': ('0.10.7', '1.0'),
    'mmcv': ('2.1.0', '2.4'),
    'mmseg': ('1.2.2', '2.0'),
    'mmdet': ('3.3.0', '4.0'),
    'mmpretrain': ('1.2.0', '2.0'),
}

Patch = Callable[[ModuleType, Callable[[ModuleType], Any]], None]


# ---------------------------------------------------------------------------------------------- (a) `package::config`
def _name_packages(module: ModuleType, run: Callable) -> None:
    """``mmengine.config.utils`` resolves ``package::config`` by a fixed table of distribution names.

    Fault: the table lacks mmtoken, and names distributions of the upstream family only, so that ``mmseg::`` fails in
    the onedl family, whose distribution is ``onedl-mmsegmentation``. The import name serves wherever the listed
    distribution is absent; where it is present, its name stays, since upstream's install hints show it.
    """
    run(module)
    table = module.MODULE2PACKAGE
    for name in ('mmtoken', 'mmseg', 'mmdet', 'mmpretrain'):
        if _distribution(table.get(name, name)) is None:
            table[name] = name
        table.setdefault(name, name)


# ------------------------------------------------------------------------------------------------ (b) no pkg_resources
def _distribution(package: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def package2module(package: str) -> str:
    """Import name of a distribution: the first line of its ``top_level.txt``."""
    found = _distribution(package)
    names = (found.read_text('top_level.txt') or '').split() if found else []
    if not names:
        raise ValueError(f'can not infer the module name of {package}')
    return names[0]


def is_installed(package: str) -> bool:
    """Whether ``package`` is an installed distribution or an importable top-level module."""
    if _distribution(package) is not None:
        return True
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def get_installed_path(package: str) -> str:
    """Folder of the module that ``package`` (a distribution or a module) brings, editable installs included."""
    found = _distribution(package)
    module = package
    if found is not None:
        path = osp.abspath(found.locate_file(package))
        if osp.exists(path):
            return path
        module = package2module(package)
        path = osp.abspath(found.locate_file(module))
        if osp.exists(path):
            return path
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise importlib.metadata.PackageNotFoundError(package)
    if spec.origin is None:
        raise RuntimeError(f'{package} is a namespace package, which is invalid for `get_installed_path`')
    return osp.dirname(spec.origin)


def _find_packages(module: ModuleType, run: Callable) -> None:
    """``mmengine.utils.package_utils`` asks ``pkg_resources`` where a package is.

    Faults: setuptools >= 82 has no ``pkg_resources``, and then every ``mmseg::config`` dies; and ``pkg_resources``
    answers ``site-packages/<package>``, which does not exist, for an editable install, so ``mmtoken::config`` would
    die there. Python's own metadata know both.
    """
    run(module)
    for new in (is_installed, get_installed_path, package2module):
        old = getattr(module, new.__name__)
        # Other modules of mmengine took the old function by name, if mmengine was imported before mmtoken.
        for user in [m for n, m in list(sys.modules.items()) if n.split('.')[0] == 'mmengine']:
            if vars(user).get(new.__name__) is old:
                setattr(user, new.__name__, new)


# ---------------------------------------------------------------------------------- (c) torch.load(weights_only=True)
def _trust_history(module: ModuleType, run: Callable) -> None:
    """Checkpoints of mmengine hold its message hub: HistoryBuffer objects over numpy arrays.

    Fault: mmengine 0.10.7 calls ``torch.load`` without ``weights_only``, True by default since torch 2.6, which
    refuses those types: ``resume``, ``load_from`` and ``test`` fail on mmengine's own files. Readers stand in for
    exactly the names that such files hold (:mod:`mmtoken.unpickle.checkpoints`), and for the statistics that this
    process registers.
    """
    run(module)
    from torch.serialization import add_safe_globals

    from .unpickle import checkpoints

    buffer = module.HistoryBuffer
    add_safe_globals(checkpoints.trusted(buffer))
    known = [m for name, m in buffer._statistics_methods.items() if name not in checkpoints.STATISTICS]
    add_safe_globals([checkpoints.mentioned(method) for method in known])
    register = buffer.register_statistics.__func__

    def register_statistics(cls, method):
        add_safe_globals([checkpoints.mentioned(method)])
        return register(cls, method)

    buffer.register_statistics = classmethod(register_statistics)


def _torch_load(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    import torch

    return torch.load(file, map_location=map_location, weights_only=weights_only is not False)


def _refuse_plainly(module: ModuleType, run: Callable) -> None:
    """``mmengine.runner.checkpoint``: a file that holds anything else is refused, in one line that says what to do.

    Faults: torch's own text is a page long, and its first advice is to switch the safety off; the onedl family does
    just that, on its own, when a safe load fails. Without a network the text says neither what was fetched nor why.
    """
    run(module)
    if hasattr(module, '_safe_torch_load'):
        module._safe_torch_load = _torch_load
    load = module.CheckpointLoader.load_checkpoint.__func__

    def load_checkpoint(cls, filename, *args, **kwargs):
        try:
            return load(cls, filename, *args, **kwargs)
        except OSError as error:  # it is not there
            if '://' in str(filename) and not error.filename:  # which the network's own errors leave out
                raise OSError(f'{filename} was not loaded: {error}. Fetch it by hand and name the file') from error
            raise
        except ImportError:
            raise
        except Exception as error:  # a file that is torn or made up fails in any way
            name = re.search(r'GLOBAL (\S+)', str(error))
            line = re.search(r'WeightsUnpickler error:\s*(.*)', str(error))
            why = f'it holds {name[1]}, which is no part of a checkpoint' if name else (line[1] if line else str(error))
            why = (why.splitlines() or [type(error).__name__])[0]
            advice = (
                'If you trust the file, pass its types to torch.serialization.add_safe_globals first, or save its '
                'state_dict alone.'
                if isinstance(error, pickle.UnpicklingError)
                else 'It is no checkpoint, or only a part of one.'
            )
            raise pickle.UnpicklingError(f'{filename} was not loaded: {why}. {advice}') from error

    module.CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)


# -------------------------------------------------------------------------------------------------- (d) no `mmcv._ext`
class _ExtFinder:
    """Finds ``mmcv._ext`` where nothing else does.

    Fault: mmseg and mmdet import ``mmcv.ops`` at import time, which needs the compiled module that mmcv-lite lacks.
    The finder stands last in ``sys.meta_path``, so a compiled ``mmcv._ext`` is always found before it.
    """

    def find_spec(self, name: str, path=None, target=None):
        if name == 'mmcv._ext':
            return importlib.util.spec_from_file_location(name, osp.join(osp.dirname(__file__), '_ext_standin.py'))
        return None


# ------------------------------------------------------------------------------------------------ (e) version windows
def _release(version: str) -> tuple:
    return tuple(int(number) for number in re.findall(r'\d+', re.match(r'[\d.]*', version)[0]))


def _warn_of_version(module: ModuleType, run: Callable) -> None:
    """Version windows warn.

    Fault: mmseg and mmdet assert ``mmcv < 2.2.0`` and ``mmengine < 1.0`` in their ``__init__``, although mmcv 2.2.0
    differs in a few lines that they never call. Their asserts become warnings here, as are mmtoken's own windows.
    """
    try:
        run(module)
    except AssertionError as error:
        warnings.warn(f'{module.__name__}: {error} Going on all the same.', stacklevel=2)
        code = compile(module.__loader__.get_source(module.__name__), module.__file__, 'exec', optimize=1)
        exec(code, vars(module))
    low, high = TESTED_VERSIONS[module.__name__]
    version = getattr(module, '__version__', low)
    if not _release(low) <= _release(version) < _release(high):
        warnings.warn(
            f'mmtoken is known to work with {module.__name__}>={low},<{high}; this is {version}.', stacklevel=2
        )


# --------------------------------------------------------------------------- (f) torchvision without its operators
#: Operators that torchvision's Python code says more about when it is imported.
_TORCHVISION_OPERATORS = (
    'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    'roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, '
    'int sampling_ratio, bool aligned) -> Tensor',
)


def _declare_operators(module: ModuleType, run: Callable) -> None:
    """Loads torchvision beside a torch that it was not built for; only its compiled operators are missing then.

    Faults: PyPI's torchvision is built for CUDA. Beside a CPU torch its library does not load, which it forgives, but
    then it raises RuntimeError because its operators are not declared: timm, mmpretrain and all transforms are lost.
    They are declared here, and a call of one says that it has no kernel. A torchvision that cannot load even so raises
    ModuleNotFoundError: mmdet guards its import for ImportError only, mmengine's ``collect_env`` for that only.
    """
    try:
        run(module)
        return
    except ModuleNotFoundError:
        raise
    except Exception as error:
        if 'torchvision::' not in str(error):
            raise _no_torchvision(error) from error
    from torch.library import Library

    module._declared = library = Library('torchvision', 'FRAGMENT')  # declared as long as this object lives
    for schema in _TORCHVISION_OPERATORS:
        with contextlib.suppress(RuntimeError):  # it is there
            library.define(schema)
    try:
        run(module)
    except Exception as error:
        raise _no_torchvision(error) from error


def _no_torchvision(error: Exception) -> ModuleNotFoundError:
    return ModuleNotFoundError(f'torchvision is installed but cannot load: {error}', name='torchvision')


# ------------------------------------------------------------------------------------------- (g) no `scipy…interp2d`
def _interp2d(x: Any, y: Any, z: Any, kind: str = 'cubic') -> Callable:
    """What SciPy advises instead of ``interp2d`` on a grid; ``z`` is ``(len(y), len(x))``, as is what comes back."""
    from scipy.interpolate import RectBivariateSpline

    degree = dict(linear=1, cubic=3, quintic=5)[kind]
    spline = RectBivariateSpline(x, y, z.T, kx=degree, ky=degree)
    return lambda new_x, new_y: spline(new_x, new_y).T


def _resize_tables(module: ModuleType, run: Callable) -> None:
    """Mmseg's BEiT resizes its relative position tables with ``scipy.interpolate.interp2d``.

    Fault: SciPy 1.14 removed it, so the usual recipe, pretrained at 224 and trained at 640, dies in ``init_weights``.
    """
    run(module)
    module.interpolate = SimpleNamespace(interp2d=_interp2d)


# ------------------------------------------------------------------------------------- (h) one dropout layer for all
def _own_dropout_layer(module: ModuleType, run: Callable) -> None:
    """Each of mmcv's ``MultiheadAttention`` has a dropout layer of its own.

    Fault: its default config is one dict for the whole process, into which the old argument ``dropout`` of DETR models
    is written, so that a ViT built after one drops a tenth of what its attention gives, in training.
    """
    run(module)
    attention = module.MultiheadAttention
    init = attention.__init__
    default = dict(inspect.signature(init).parameters['dropout_layer'].default)

    @functools.wraps(init)
    def own(self, *args, **kwargs):
        if len(args) < 5:  # it is not given by position
            layer = kwargs.get('dropout_layer', default)
            kwargs['dropout_layer'] = layer if layer is None else dict(layer)
        init(self, *args, **kwargs)

    attention.__init__ = own


# ------------------------------------------------------------------------------------- (i) files that are cut by a kill
def _write_beside(module: ModuleType, run: Callable) -> None:
    """Writes files beside their place and renames them: checkpoints above all.

    Fault: ``LocalBackend`` writes into the file itself, and a run writes the same ``iter_N.pth`` and best checkpoint
    again and again. A kill or a full disk in between leaves a stump that ``--resume`` and ``test`` then fail on.
    """
    run(module)

    def whole(put: Callable) -> Callable:
        @functools.wraps(put)
        def write(self, obj, filepath, *args, **kwargs):
            target = osp.realpath(filepath)
            part = osp.join(osp.dirname(target), f'.{osp.basename(target)}.{secrets.token_hex(4)}.part')
            try:
                put(self, obj, part, *args, **kwargs)
                os.replace(part, target)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(part)

        return write

    backend = module.LocalBackend
    backend.put, backend.put_text = whole(backend.put), whole(backend.put_text)


# ------------------------------------------------------------------------------- (j) models of an index without weights
def _weights_may_lack(module: ModuleType, run: Callable) -> None:
    """Inferencers find a model of an index by its name, also if no weights are published for it.

    Faults: mmengine demands ``Weights`` of every entry, so ``MMSegInferencer('name', weights='a.pth')`` dies. And an
    inferencer of mmseg or mmdet looks into the index of its own package only, where none of mmtoken's models is.
    """
    run(module)
    read = module.BaseInferencer._get_models_from_metafile

    def models(folder: str):
        for model in read(folder):
            yield {'Weights': None, **model}

    load = module.BaseInferencer._load_model_from_metafile

    def load_by_name(self, model: str):
        try:
            return load(self, model)
        except ValueError:
            scope, self.scope = self.scope, 'mmtoken'
            try:
                return load(self, model)
            finally:
                self.scope = scope

    module.BaseInferencer._get_models_from_metafile = staticmethod(models)
    module.BaseInferencer._load_model_from_metafile = load_by_name


# ------------------------------------------------------------------------------ (k) a transformers that is too new
def _no_multimodal(module: ModuleType, run: Callable) -> None:
    """Mmpretrain goes on without its models of language beside a transformers that is too new for them.

    Fault: they take from ``transformers.modeling_utils`` what 4.48 still has and 4.57 has not, so that mmpretrain
    cannot be imported, nor mmdet and mmseg, which import it where it is installed: ``pip install peft`` is enough.
    """
    run(module)
    found = _distribution('transformers')
    if found is not None and _release(found.version) >= (4, 49):
        module.WITH_MULTIMODAL = False


_PATCHES: dict[str, Patch] = {
    'mmpretrain.utils.dependency': _no_multimodal,
    'mmengine.infer.infer': _weights_may_lack,
    'mmengine.fileio.backends.local_backend': _write_beside,
    'mmcv.cnn.bricks.transformer': _own_dropout_layer,
    'mmseg.models.backbones.beit': _resize_tables,
    'mmengine.config.utils': _name_packages,
    'mmengine.utils.package_utils': _find_packages,
    'mmengine.logging.history_buffer': _trust_history,
    'mmengine.runner.checkpoint': _refuse_plainly,
    'torchvision': _declare_operators,
    **dict.fromkeys(TESTED_VERSIONS, _warn_of_version),
}


class _PatchFinder:
    """Finds the modules of ``_PATCHES`` as the other finders do, and has each run under its patch."""

    def find_spec(self, name: str, path=None, target=None):
        patch = _PATCHES.get(name)
        if patch is None:
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda module: patch(module, run)
        return spec


def apply() -> None:
    """Puts the import hooks in place, once, and mends what is loaded already.

    ``MMTOKEN_NO_COMPAT=1`` in the environment switches it off.
    """
    if os.environ.get('MMTOKEN_NO_COMPAT', '0') not in ('', '0'):
        return
    if any(isinstance(finder, _PatchFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _PatchFinder())
    sys.meta_path.append(_ExtFinder())
    for name, patch in _PATCHES.items():
        if name in sys.modules:
            patch(sys.modules[name], lambda module: None)
