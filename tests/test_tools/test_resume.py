"""A run that is resumed ends where an unbroken one does, to the last bit, whatever is trained and however."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub

from .conftest import call
from .test_detection import boxes  # noqa: F401

pytestmark = pytest.mark.usefixtures('plain_dumps')

#: Two blocks, as ``config.py`` has; four for methods that need some to spare. Dropout and augmentations are on.
SHORT = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=9)
train_dataloader.update(num_workers=0, persistent_workers=False)
"""
DEEP = """
model.update(type='mmtoken.TokenEncoderDecoder')
model['backbone'].update(arch=dict(embed_dims=16, num_layers=4, num_heads=2), patch_size=7, reducer=dict({}))
"""
FROZEN = """
load_from = {dense!r}
model['backbone'].update(frozen=True)
"""
CASES = dict(
    mean_of_weights="custom_hooks.append(dict(type='EMAHook', momentum=0.3))",
    bfloat16="optim_wrapper.update(type='mmtoken.BF16OptimWrapper', accumulative_counts=2)",
    feature_cache=FROZEN + "custom_hooks.append(dict(type='mmtoken.FeatureCacheHook', cache_dir='kept'))",
    only_reducer=FROZEN
    + """
model.update(type='mmtoken.TokenEncoderDecoder', train_cfg=dict(only_reducer=True))
model['backbone'].update(reducer=dict(type='mmtoken.Cropr', keep=0.5, layers=[0], restore='scatter', num_classes=11,
                                      queries=4))
""",
    curriculum=DEEP.format(
        "type='mmtoken.Cropr', keep=0.2, num_classes=11, queries=4, curriculum=1.0, random=(0.2, 1.0)"
    ),
    drawn_gates=DEEP.format("type='mmtoken.SViT', skip=1"),
    drawn_scales=DEEP.format("type='mmtoken.MixedScale', fine=0.5, random=(0.1, 0.9)"),
    guided_by_labels=DEEP.format("type='mmtoken.SAT', blocks=1, guided=0.6"),
    falling_threshold=DEEP.format("type='mmtoken.DoViT', threshold=0.1, anneal_iters=3, exits=[1]")
    + "model['auxiliary_head'] = [dict(model['decode_head'], kernel_size=1, in_index=0)]\n"
    + "model['backbone'].update(out_indices=(1, 3))\nmodel['decode_head'].update(in_index=1)\n",
)
#: Of mmdet, on two blocks.
DETECTOR = """
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=9)
default_hooks['checkpoint'].update(interval=2, max_keep_ckpts=-1)
model['backbone'].update(drop_path_rate=0.5, reducer=dict(
    type='mmtoken.Cropr', keep=0.5, layers=[0], restore='scatter', num_classes=2, target='image', curriculum=1.0))
"""


def numbers(state, name=''):
    """Every (name, tensor or number) of what a checkpoint holds."""
    if isinstance(state, (dict, list, tuple)):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from numbers(value, f'{name}.{key}')
    else:
        yield name, state


def state_after(folder: Path, iterations: int) -> dict:
    checkpoint = torch.load(folder / f'iter_{iterations}.pth', weights_only=False)
    wanted = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')
    return dict(numbers({key: checkpoint[key] for key in wanted if key in checkpoint}))


def same(a, b) -> bool:
    return torch.equal(a, b) if torch.is_tensor(a) else a == b


def after(folder: Path, monkeypatch, name: str, text: str) -> list[dict]:
    """States of an unbroken run after two and four iterations, and after four of one that goes on from the former."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    (folder / f'resume-{name}.py').write_text(text)
    for work_dir, flags in (('whole', []), ('again', ['--resume', f'whole-{name}/iter_2.pth'])):
        monkeypatch.setattr(MessageHub, '_instance_dict', OrderedDict())
        call('train', monkeypatch, f'resume-{name}.py', '--work-dir', f'{work_dir}-{name}', *flags)
    return [state_after(folder / f'{work_dir}-{name}', n) for work_dir, n in (('whole', 2), ('whole', 4), ('again', 4))]


def differences(a: dict, b: dict) -> list[str]:
    assert a.keys() == b.keys()
    return [key for key, value in a.items() if not same(value, b[key])]


@pytest.mark.parametrize('name', CASES)
def test_a_resumed_run_ends_where_an_unbroken_one_does(street, trained, monkeypatch, name):
    text = (street / 'config.py').read_text() + SHORT + CASES[name].format(dense=str(trained / 'iter_6.pth'))
    half, whole, again = after(street, monkeypatch, name, text)
    assert not differences(whole, again)
    assert any(key.startswith('.state_dict') for key in differences(half, whole)), 'it must learn'


def test_so_does_that_of_a_detector(boxes, monkeypatch):  # noqa: F811
    text = (boxes / 'retina.py').read_text() + DETECTOR
    half, whole, again = after(boxes, monkeypatch, 'retina', text)
    assert not differences(whole, again)
    assert any(key.startswith('.state_dict.backbone.reducer') for key in differences(half, whole))


def test_it_takes_the_seed_of_each_iteration(street, monkeypatch):
    """Without the hook other neurons are dropped, as in a config that derives from upstream's runtime alone."""
    text = (street / 'config.py').read_text() + SHORT + "default_hooks.pop('iter_seed')\n"
    _, whole, again = after(street, monkeypatch, 'unseeded', text)
    assert differences(whole, again)
