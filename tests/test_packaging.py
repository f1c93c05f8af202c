"""What is built and installed: configs by ``mmtoken::`` from any folder, after every kind of install."""

import email
import os
import re
import shutil
import site
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest
import yaml

import mmtoken

ROOT = Path(mmtoken.__file__).parents[1]
PARTS = ('mmtoken', 'configs', 'examples', 'tools', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'README.md', 'LICENSE')
PARTS += ('Makefile', 'CHANGELOG.md', 'CONTRIBUTING.md', 'CITATION.cff')

pytestmark = pytest.mark.skipif(not (ROOT / 'setup.py').exists(), reason='needs a checkout')


def run(*command, cwd, **env):
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=dict(os.environ, **env), text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def build(kind, source, out):
    """Runs a hook of the build backend, as pip and ``python -m build`` do, and returns the file that it made."""
    out.mkdir(exist_ok=True)
    code = f'from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))'
    return out / run(sys.executable, '-c', code, cwd=source).splitlines()[-1]


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A copy of the sources, the sdist made of it, the wheel made of the sdist, and an editable wheel of the copy."""
    base = tmp_path_factory.mktemp('build')
    source = base / 'source'
    source.mkdir()
    for name in PARTS:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
        else:
            shutil.copyfile(path, source / name)
    (source / 'configs' / 'made_up').mkdir()
    (source / 'configs' / 'made_up' / 'metafile.yml').write_text('Models: []\n')
    sdist = build('sdist', source, base / 'dist')
    with tarfile.open(sdist) as archive:
        archive.extractall(base, **({'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}))
    wheel = build('wheel', base / sdist.name[: -len('.tar.gz')], base / 'dist')
    return dict(source=source, sdist=sdist, wheel=wheel, editable=build('editable', source, base / 'editable'))


def configs():
    return sorted(p.relative_to(ROOT / 'configs').as_posix() for p in (ROOT / 'configs').rglob('*.py'))


def models():
    return [path for path in configs() if not path.startswith('_base_')]


def check_install(target, cwd, home):
    """In a fresh interpreter that knows ``target`` and the other packages, but no installed mmtoken."""
    others = [p for p in sys.path if 'site-packages' in p or 'dist-packages' in p]
    cwd.mkdir()
    (cwd / 'mine.py').write_text("_base_ = ['mmtoken::_base_/default_runtime.py']\nextra = 1\n")
    run(
        sys.executable,
        '-S',
        '-c',
        textwrap.dedent(f"""
        import os, site, sys
        sys.path[:] = [{str(target)!r}] + [p for p in sys.path if p] + {others!r}
        site.addsitedir({str(target)!r})
        import mmengine
        import mmtoken
        assert os.path.realpath(mmtoken.__file__).startswith({os.path.realpath(home)!r}), mmtoken.__file__
        from mmengine.config import Config
        from mmengine.utils import get_installed_path
        cfg = Config.fromfile('mine.py')
        assert cfg.extra == 1 and 'default_scope' in cfg, cfg
        mim = os.path.join(get_installed_path('mmtoken'), '.mim')
        assert os.path.isfile(os.path.join(mim, 'tools', 'train.py'))
        from mmengine.infer import BaseInferencer
        names = BaseInferencer.list_models('mmtoken')
        assert len(names) == len(set(names)) == {len(models())}, len(names)
        index = mmengine.load(os.path.join(mim, 'model-index.yml'))['Import']
        assert 'configs/made_up/metafile.yml' in index
        assert all(os.path.isfile(os.path.join(mim, path)) for path in index)
    """),
        cwd=cwd,
        PYTHONPATH='',
    )


def test_sdist_holds_all_that_a_build_needs(built):
    with tarfile.open(built['sdist']) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    missing = {f'configs/{name}' for name in configs()} | set(PARTS)
    missing |= {'tools/train.py', 'tools/dist_train.sh', 'examples/timm_vit.py'}
    missing -= names
    assert not missing
    assert not [n for n in names if n.startswith('mmtoken/.mim') or n.endswith('.pyc')]


def test_wheel(built, tmp_path):
    with zipfile.ZipFile(built['wheel']) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / 'site')  # a pure wheel is installed by unpacking it
    assert {f'mmtoken/.mim/configs/{name}' for name in configs()} <= names
    packaged = {p.relative_to(ROOT).as_posix() for p in (ROOT / 'mmtoken').rglob('*.py') if '.mim' not in p.parts}
    assert packaged <= names
    assert 'mmtoken/py.typed' in names  # or no type checker reads the types of an installed mmtoken
    assert {'mmtoken/hmr/body/free_body.npz', 'mmtoken/hmr/body/free_body.md'} <= names  # the body and its licence
    tops = {name.split('/')[0] for name in names}
    assert tops == {'mmtoken', f'mmtoken-{mmtoken.__version__}.dist-info'}
    check_install(tmp_path / 'site', tmp_path / 'elsewhere', home=tmp_path / 'site')


def test_editable(built, tmp_path):
    with zipfile.ZipFile(built['editable']) as archive:
        archive.extractall(tmp_path / 'site')
    assert not (tmp_path / 'site' / 'mmtoken').exists()
    check_install(tmp_path / 'site', tmp_path / 'elsewhere', home=built['source'])
    # An edited config is the one that is used.
    added = built['source'] / 'configs' / '_base_' / 'added.py'
    added.write_text('x = 1\n')
    assert (built['source'] / 'mmtoken' / '.mim' / 'configs' / '_base_' / 'added.py').read_text() == 'x = 1\n'


def test_editable_is_found_from_the_folder_above_its_clone(built, tmp_path):
    """There the clone, a folder named mmtoken without ``__init__.py``, looks like a namespace package."""
    clone = tmp_path / 'mmtoken'
    clone.symlink_to(built['source'], target_is_directory=True)
    with zipfile.ZipFile(built['editable']) as archive:
        archive.extractall(tmp_path / 'site')
    code = f"""
        import os, site, sys
        site.addsitedir({str(tmp_path / 'site')!r})
        import mmtoken
        assert mmtoken.__file__ and hasattr(mmtoken, 'compat'), mmtoken.__path__
        import mmtoken.compat
    """
    run(sys.executable, '-S', '-c', textwrap.dedent(code), cwd=tmp_path, PYTHONPATH='')


@pytest.mark.parametrize(
    'name', ["it's.jpg", "x'; touch P; '", 'a b.jpg', '$(touch P).jpg', '$$HOME.jpg', '"; touch P; "']
)
def test_make_hands_the_name_of_a_picture_on(built, tmp_path, name):
    if shutil.which('make') is None:
        pytest.skip('no make')
    (tmp_path / '.venv/bin').mkdir(parents=True)
    (tmp_path / '.venv/bin/python').write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / '.venv/bin/python').chmod(0o755)
    shutil.copy(built['source'] / 'Makefile', tmp_path)
    (tmp_path / 'setup.py').write_text('')
    (tmp_path / '.venv/.done').write_text('')  # newer than setup.py
    for target, tool in (('demo', 'tools/demo.py'), ('demo-hmr', 'tools/demo_hmr.py')):
        said = run('make', '-s', target, f'IMAGE={name}', cwd=tmp_path).splitlines()
        assert said[-3:] == [tool, '--image', name]
        assert run('make', '-s', target, cwd=tmp_path).splitlines()[-1] == tool
    assert not (tmp_path / 'P').exists()


def test_make_says_where_a_disk_is_nearly_full(built, tmp_path):
    if shutil.which('make') is None:
        pytest.skip('no make')
    (tmp_path / '.venv/bin').mkdir(parents=True)
    df = 'printf "Filesystem 1024-blocks Used Available Capacity Mounted on\\n"'
    for name, script in (
        ('.venv/bin/python', 'true'),
        ('df', f'{df}; for at in $3 $4; do echo "/dev/a 9000000 1 $FREE 9% /mnt"; done'),
    ):
        (tmp_path / name).write_text(f'#!/bin/sh\n{script}\n')
        (tmp_path / name).chmod(0o755)
    shutil.copy(built['source'] / 'Makefile', tmp_path)
    (tmp_path / 'setup.py').write_text('')
    for free, said in ((2_900_000, 1), (3_100_000, 0)):
        (tmp_path / '.venv/.done').unlink(missing_ok=True)
        out = run('make', 'setup', cwd=tmp_path, PATH=f'{tmp_path}:{os.environ["PATH"]}', FREE=str(free))
        assert out.count('less than 3 GB are free on /mnt, pip may') == said and '[2/3]' in out


def test_the_version_is_that_of_the_changelog_and_of_the_citation():
    versions = re.findall(r'^## \[(.+)\]', (ROOT / 'CHANGELOG.md').read_text(), re.M)
    assert versions[:2] == ['Unreleased', mmtoken.__version__]
    assert yaml.safe_load((ROOT / 'CITATION.cff').read_text())['version'] == mmtoken.__version__


def test_hooks_and_make_lint_run_the_same_tools():
    if not (ROOT / '.pre-commit-config.yaml').exists():
        pytest.skip('needs a checkout')
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos'][0]['hooks']
    lint = (ROOT / 'Makefile').read_text().partition('\nlint:')[2].partition('\n\n')[0]
    tools = re.findall(r'-m (ruff \w+|mypy)', lint)
    assert tools and tools == [re.search(r'-m (ruff \w+|mypy)', hook['entry'])[1] for hook in hooks]


def test_metadata(built):
    with zipfile.ZipFile(built['wheel']) as archive:
        text = archive.read(f'mmtoken-{mmtoken.__version__}.dist-info/METADATA').decode()
    about = email.message_from_string(text)
    assert {req for req in about.get_all('Requires-Dist') if 'extra ==' not in req} == {'torch>=2.6', 'numpy', 'fvcore'}
    assert set(about.get_all('Provides-Extra')) == {
        'mm',
        'onedl',
        'pretrain',
        'timm',
        'test',
        'dev',
        'hmr',
        'export',
        'demo',
        'analysis',
    }


def test_what_tests_are_skipped_for_comes_with_the_tests(built):
    """Or the test says how to get it. None is skipped for a module of ours: that would hide a fault in it."""
    with zipfile.ZipFile(built['wheel']) as archive:
        text = archive.read(f'mmtoken-{mmtoken.__version__}.dist-info/METADATA').decode()
    needed = email.message_from_string(text).get_all('Requires-Dist')
    brought = {re.match(r'[\w-]+', one)[0] for one in needed if "extra == 'test'" in one.replace('"', "'")}
    brought |= {'safetensors', *sys.stdlib_module_names}  # timm brings the former
    skips = [
        (path.name, *found)
        for path in sorted((ROOT / 'tests').rglob('*.py'))
        for found in re.findall(r"importorskip\('(\w+)[\w.]*'(.*)\)", path.read_text(encoding='utf-8'))
    ]
    assert skips and not [skip for skip in skips if skip[1] not in brought and 'pip install' not in skip[2]]


def test_this_environment(tmp_path):
    """The install that runs the tests, as ``make setup`` left it."""
    if not [d for p in site.getsitepackages() for d in Path(p).glob('mmtoken-*.dist-info')]:
        pytest.skip('mmtoken is not installed here, it only lies on the path')
    (tmp_path / 'mine.py').write_text("_base_ = ['mmtoken::_base_/default_runtime.py']\n")
    run(
        sys.executable,
        '-c',
        "import mmtoken; from mmengine.config import Config; Config.fromfile('mine.py')",
        cwd=tmp_path,
    )


MAKE = 'help', 'setup', 'demo', 'test', 'reproduce', 'lint', 'test-full', 'test-onedl', 'clean'


@pytest.mark.parametrize('target', MAKE)
def test_make_knows(target):
    if shutil.which('make') is None:
        pytest.skip('no make')
    assert target in run('make', 'help', cwd=ROOT)
    run('make', '-n', target, cwd=ROOT)
