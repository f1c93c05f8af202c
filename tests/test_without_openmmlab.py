"""The core and the methods need torch alone; README's example runs where no package of OpenMMLab is installed."""

import re
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

import mmtoken

ROOT = Path(mmtoken.__file__).parents[1]
SITE = Path(sysconfig.get_paths()['purelib'])


@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    """A folder with this environment's packages but those of OpenMMLab."""
    folder = tmp_path_factory.mktemp('site')
    for entry in SITE.iterdir():
        if not entry.name.lower().startswith(('mm', 'onedl', '__editable__', '_')) and entry.suffix != '.pth':
            (folder / entry.name).symlink_to(entry)
    (folder / 'mmtoken').symlink_to(ROOT / 'mmtoken')
    return folder


def run(bare, code):
    path = f'import sys; sys.path.insert(0, {str(bare)!r})\n'
    command = [sys.executable, '-S', '-W', 'ignore', '-c', path + textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=bare)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_core_and_methods_import(bare):
    out = run(
        bare,
        """
        from mmtoken.core import REDUCERS, build_reducer
        import mmtoken.methods
        try:
            import mmengine
        except ImportError:
            print(sorted(REDUCERS.module_dict), build_reducer(dict(type='mmtoken.ToMe', keep=0.5)).keep)
        """,
    )
    assert 'Expedit' in out and 'MixedScale' in out and '0.5' in out


def test_the_example_of_the_readme(bare):
    pytest.importorskip('timm', reason='the example is about timm')
    blocks = re.findall(r'```python\n(.*?)```', (ROOT / 'README.md').read_text(encoding='utf-8'), re.S)
    example = next(block for block in blocks if 'class MyViT' in block)
    out = run(
        bare,
        example
        + textwrap.dedent(
            """
            import torch
            from timm.models.vision_transformer import VisionTransformer as Stock
            small = dict(img_size=64, patch_size=8, embed_dim=48, depth=4, num_heads=3)
            torch.manual_seed(0)
            stock, images = Stock(**small).eval(), torch.randn(2, 3, 64, 64)
            for reducer in (None, dict(type='ToMe', keep=0.5), dict(type='AvgPool', layer=1)):
                ours = MyViT(**small, reducer=reducer).eval()
                ours.load_state_dict(stock.state_dict())
                with torch.no_grad():
                    out = ours(images)[0]
                    if reducer is None:
                        same = stock.forward_features(images)[:, 1:].transpose(1, 2).unflatten(2, (8, 8))
                        print('equal', torch.allclose(out, same, atol=1e-5))
                print(tuple(out.shape), ours.token_counts(images)[-1])
            """
        ),
    )
    lines = out.split('\n')
    assert lines[0] == 'equal True' and lines[1] == '(2, 48, 8, 8) 64.0'
    assert lines[2] == '(2, 48, 8, 8) 32.0' and lines[3] == '(2, 48, 8, 8) 16.0'
