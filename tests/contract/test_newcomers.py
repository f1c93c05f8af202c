"""The contract holds what it has never seen: made-up methods and hosts pass by registration, broken ones fail by name.

Each runs the contract in a process of its own, where a plugin registers them: ``newcomers.py`` or ``mutants.py``.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONTRACT = [f'tests/contract/test_{part}.py' for part in ('hosts', 'methods', 'stacking', 'training', 'cost', 'graphs')]
#: Test of the contract that catches a mutant, and the case that must fail.
CAUGHT = {
    'Leaky': 'test_methods.py::test_a_batch_is_its_images[Leaky-TokenVisionTransformer-length=2-size0]',
    'Careless': 'test_methods.py::test_prefix_tokens_stay_where_and_what_they_are[Careless]',
    'Wasteful': 'test_cost.py::test_token_counts_are_those_on_paper[Wasteful-TokenVisionTransformer-length=2-size2]',
    'Undeployable': 'test_training.py::test_what_only_training_needs_can_go[Undeployable-TokenMAE-part=0.5]',
    'No_paper': 'test_methods.py::test_a_method_brings_what_its_tests_need[No_paper]',
    'No_examples': 'test_methods.py::test_a_method_brings_what_its_tests_need[No_examples]',
    'No_identity_example': 'test_methods.py::test_a_method_brings_what_its_tests_need[No_identity_example]',
    'No_closed_form': 'test_methods.py::test_a_method_brings_what_its_tests_need[No_closed_form]',
    'Flips': 'test_hosts.py::test_what_is_in_a_place_shows_in_that_place[Flips]',
    'Mixes': 'test_hosts.py::test_a_batch_is_its_images_without_a_method[Mixes]',
    'Weightless': 'test_hosts.py::test_a_host_weighs_keys_by_the_sizes_of_tokens[Weightless]',
    'Forgets': 'test_methods.py::test_every_tap_gets_the_full_grid[AvgPool-Forgets-layer=2-grid=0.5-size0]',
    'Renames': 'test_hosts.py::test_a_host_has_the_names_of_the_class_it_derives_from[Renames]',
    'Hides': 'test_training.py::test_state_dict_round_trip[AvgPool-Hides-layer=2-grid=0.5]',
    'Straight': 'test_hosts.py::test_what_is_in_a_place_is_seen_by_its_neighbours[Straight]',
    'Toyless': 'test_hosts.py::test_a_host_brings_what_its_tests_need[Toyless]',
}


def run_pytest(*args, root=ROOT, plugin=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_')}
    env['PYTHONPATH'] = os.pathsep.join([str(root), str(root / 'tests' / 'contract')])
    plugins = ['no:cacheprovider', 'no:xdist', *([plugin] if plugin else [])]
    command = [sys.executable, '-m', 'pytest', *args, '-q', '--no-header', '--tb=line']
    command += [part for name in plugins for part in ('-p', name)]
    return subprocess.run(
        command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    ).stdout


def passed(out):
    assert 'failed' not in out and 'error' not in out, out
    return int(re.search(r'(\d+) passed', out)[1])


def test_newcomers_inherit_the_contract():
    """And the closed forms: hosts with a few kinds of method, methods on one of these hosts; not each with each.

    On hosts that are not made up, new methods run in the test of the README's below.
    """
    hosts = '(Pyramid and (AvgPool or ToMe or Hardest or Loud)) or (Rotary and (ToMe or Margin)) or MixedStem'
    methods = '(Rotary and (Runs or Loud or Hardest or Margin))'
    alone = '[Pyramid] or [Rotary] or [Runs] or [Loud] or [Hardest] or [Margin]'
    exports = '(export and (Pyramid or Rotary))'
    slow = 'compilation and (AvgPool or Runs or (Hardest and not Pyramid))'
    tests = [*CONTRACT, 'tests/test_analysis/test_closed_form.py']
    out = run_pytest(
        *tests, '-k', f'({hosts} or {methods} or {alone} or {exports}) and not ({slow})', plugin='newcomers'
    )
    assert passed(out) > 600, out


def test_mutants_are_caught():
    tests = [f'tests/contract/{test}' for test in CAUGHT.values()]
    out = run_pytest(*tests, plugin='mutants')
    missed = [name for name, test in CAUGHT.items() if f'FAILED tests/contract/{test}' not in out]
    assert not missed and f'{len(CAUGHT)} failed' in out, out


@pytest.fixture
def copy(tmp_path):
    """A copy of the repository without what builds leave."""
    ignore = shutil.ignore_patterns('__pycache__', '.mim', 'results', '*.pth')
    for folder in ('mmtoken', 'configs', 'tests'):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignore)
    for file in ('README.md', 'pyproject.toml'):
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def add(root, name, kind, source, config):
    """Adds a method: its folder and one config, no edit elsewhere."""
    folder, configs = root / 'mmtoken' / 'methods' / name, root / 'configs' / name
    folder.mkdir(), configs.mkdir()
    (folder / 'reducer.py').write_text(source)
    (folder / '__init__.py').write_text(f"from .reducer import {kind}\n\n__all__ = ['{kind}']\n")
    (configs / f'{name}-new_{config[0]}').write_text(config[1])


def test_a_method_of_the_readme_and_an_exit_are_a_folder_and_a_config(copy):
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    block = next(block for block in re.findall(r'```python\n(.*?)```', readme, re.S) if 'class MaxPool' in block)
    base = 'segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py'
    backbone = "dict(type='mmtoken.TokenVisionTransformer', reducer=dict(type='mmtoken.MaxPool', layer=6, grid=0.5))"
    config = f"_base_ = 'mmseg::segmenter/{base}'\nmodel = dict(backbone={backbone})\n"
    add(copy, 'maxpool', 'MaxPool', block, (base, config))

    newcomers = (HERE / 'newcomers.py').read_text(encoding='utf-8')
    margin = newcomers[newcomers.rindex('@REDUCERS') :]
    source = f'from mmtoken.core import REDUCERS\nfrom mmtoken.methods.early_exit import EarlyExit\n\n\n{margin}'
    base = 'segmenter-dovit_vit-s_mask_8xb1-160k_ade20k-512x512.py'
    backbone = "dict(reducer=dict(type='mmtoken.Margin', threshold=0.9))"
    config = f"_base_ = '../baselines/{base}'\nmodel = dict(type='mmtoken.TokenEncoderDecoder', backbone={backbone})\n"
    add(copy, 'margin', 'Margin', source, (base, config))

    tests = [*CONTRACT, 'tests/test_analysis/test_closed_form.py', 'tests/test_configs.py']
    hosts = 'not Token or TokenVisionTransformer or (BEiT and not export and not compilation)'
    out = run_pytest(*tests, '-k', f'(maxpool or margin) and ({hosts})', root=copy)
    assert passed(out) > 100, out
