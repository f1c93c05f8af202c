"""The home of mmtoken's metadata; pyproject.toml holds tool settings only."""

import json
import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildPyWithMim(build_py):
    """Brings ``mmtoken/.mim`` into every kind of build: sdist to wheel, wheel, ``pip install .`` and ``-e .``.

    OpenMMLab looks there for a package's configs, tools and model index (`_base_ = ['mmtoken::…']`, `mim train`). All
    builds run ``build_py``, editable ones with ``editable_mode`` set: these get links into the checkout, so that an
    edited config is the one that is used.
    """

    def run(self):
        super().run()
        base = ROOT if self.editable_mode else Path(self.build_lib).resolve()
        mim = base / 'mmtoken' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in ('configs', 'tools'):
            source, target = ROOT / name, mim / name
            if self.editable_mode:
                try:
                    target.symlink_to(os.path.relpath(source, mim), target_is_directory=True)
                    continue
                except OSError:  # Windows, without the right to make links
                    pass
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__', '*.py[cod]'))
        metafiles = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob('configs/*/metafile.yml'))
        (mim / 'other-models.yml').write_text(json.dumps({'Models': other_models(metafiles)}, indent=2) + '\n')
        write_index(mim, [*metafiles, 'other-models.yml'])  # JSON is YAML
        if self.editable_mode:  # where there are configs beside the package, OpenMMLab looks for the index there
            write_index(ROOT, [*metafiles, (mim / 'other-models.yml').relative_to(ROOT).as_posix()])


def write_index(folder: Path, files: list) -> None:
    (folder / 'model-index.yml').write_text(json.dumps({'Import': files}, indent=2) + '\n')


def other_models(metafiles: list) -> list:
    """Entries of the configs that no metafile names, so that all are found by name."""
    named = {name for file in metafiles for name in re.findall(r'Config: *(\S+)', (ROOT / file).read_text())}
    paths = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob('configs/[!_]*/*.py'))]
    return [dict(Name=Path(path).stem, Config=path) for path in paths if path not in named]


# The base needs no OpenMMLab: `mmtoken.core` is plain torch.
TOKENS = ['torch>=2.6', 'numpy', 'fvcore']
# mmsegmentation imports ftfy and regex at import time, and declares neither. mmcv-lite and the compiled mmcv are two
# builds of one package: over a compiled mmcv, install mmtoken without this extra.
MM = ['mmengine>=0.10.7,<1', 'mmcv-lite>=2.1,<2.2', 'mmsegmentation>=1.2.2', 'mmdet>=3.3', 'ftfy', 'regex']
# The maintained fork: the same import names, so never beside the extra `mm`.
ONEDL = [
    'onedl-mmengine>=0.10.12',
    'onedl-mmcv>=2.3.6',
    'onedl-mmsegmentation>=1.4.2',
    'onedl-mmdetection>=3.5.1',
    'ftfy',
    'regex',
]
EXPORT = ['onnx', 'onnxscript', 'onnxruntime']
# The demo's backbone comes out of an ONNX file.
DEMO = ['onnx']
# Curves, token pictures and the search of settings: tools/analysis_tools/.
ANALYSIS = ['matplotlib', 'optuna']
# torchvision's wheel says which torch it belongs to, so pip takes the one that fits; see compat (f).
TIMM = ['timm>=1.0.20', 'torchvision']
PRETRAIN = ['mmpretrain>=1.2', *TIMM]
TEST = ['pytest', 'pytest-xdist', 'ruff', 'mypy', 'setuptools>=64', 'wheel', *ANALYSIS, *EXPORT, *TIMM]

setup(
    name='mmtoken',
    version=re.search(r"__version__ = '(.+)'", (ROOT / 'mmtoken' / '__init__.py').read_text())[1],
    description='Token reduction for plain vision transformers in OpenMMLab: segmentation and detection by config',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The mmtoken authors',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmtoken', 'mmtoken.*']),
    # Said, though it is the default: an editable install is then a plain path, which is found before a folder that is
    # only named mmtoken, such as the clone seen from the folder above it.
    package_dir={'': '.'},
    package_data={'': ['*.md'], 'mmtoken': ['py.typed'], 'mmtoken.hmr.body': ['*.npz']},
    cmdclass={'build_py': BuildPyWithMim},
    install_requires=TOKENS,
    extras_require={
        'mm': MM,
        'onedl': ONEDL,
        'timm': TIMM,
        'pretrain': PRETRAIN,
        'demo': DEMO,
        'analysis': ANALYSIS,
        'export': EXPORT,
        'hmr': ['scipy'],
        'test': TEST,
        'dev': [*TEST, 'build', 'pre-commit'],
    },
    zip_safe=False,
)
