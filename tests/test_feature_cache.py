"""The feature cache: a head's training sees the frozen backbone's features, and runs it once for each picture."""

import inspect
import logging
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmtoken.engine import FeatureCacheHook, feature_cache
from mmtoken.engine.feature_cache import folder_name
from mmtoken.registry import REDUCERS
from mmtoken.testing import toy_hosts

LATE = dict(type='mmtoken.Expedit', layer=1, grid=0.5, restore='late')


def start(tmp_path, dtype='float32', reducer=None, frozen=True):
    outs = (1, 3) if reducer is None or reducer is LATE else (3,)
    backbone = toy_hosts()['TokenDINOv2'](frozen=frozen, out_indices=outs, reducer=reducer)
    backbone.served = True
    backbone.train()
    model = torch.nn.Module()
    model.backbone = backbone
    settings = dict(type='mmtoken.TokenDINOv2', out_indices=(1, 3))
    runner = SimpleNamespace(
        model=model, cfg=SimpleNamespace(model=SimpleNamespace(backbone=settings)), logger=logging.getLogger('test')
    )
    hook = FeatureCacheHook(str(tmp_path), dtype)
    hook.before_train(runner)
    return hook, runner, backbone


def count_runs(hook, monkeypatch):
    runs, real = [], hook.run
    monkeypatch.setattr(hook, 'run', lambda inputs: runs.append(len(inputs)) or real(inputs))
    return runs


@pytest.mark.parametrize('dtype, tolerance', [('float32', 0), ('float16', 2e-3)])
def test_features_are_those_of_the_backbone(tmp_path, monkeypatch, dtype, tolerance):
    torch.manual_seed(0)
    images = torch.randn(3, 3, 32, 32)
    hook, _runner, backbone = start(tmp_path, dtype)
    expected = hook.run(images)
    runs = count_runs(hook, monkeypatch)
    first, again = backbone(images), backbone(images.flip(0))
    for want, one, two in zip(expected, first, again):
        torch.testing.assert_close(one, want, atol=tolerance * want.abs().max().item(), rtol=0)
        assert torch.equal(one, two.flip(0))
    assert runs == [3], 'every picture once, in whatever order it comes back'
    backbone(torch.cat([images[:1], torch.randn(1, 3, 32, 32)]))
    assert runs == [3, 1], 'of a batch only what is missing'


def test_the_backbone_may_run_in_another_precision(tmp_path):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    hook, _runner, backbone = start(tmp_path)
    hook.amp = torch.bfloat16
    with torch.autocast('cpu', torch.bfloat16):
        expected = hook.run(images)
    (path,) = {hook.path(images[0])}
    outs = backbone(images)
    assert all(torch.equal(out, want.float()) and out.dtype == torch.float32 for out, want in zip(outs, expected))
    assert not torch.equal(outs[-1], hook.run(images)[-1])
    assert not path.exists(), 'features of one precision are not those of another'
    assert FeatureCacheHook(amp='bfloat16').amp is torch.bfloat16


def test_heads_may_learn_under_autocast(tmp_path):
    images = torch.randn(2, 3, 32, 32)
    _hook, _runner, backbone = start(tmp_path, 'float16')
    with torch.autocast('cpu', torch.bfloat16):
        assert backbone(images)[0].dtype == torch.float32


def test_other_necks_and_heads_share_a_folder():
    def folder(**parts):
        torch.manual_seed(0)
        model = dict(dict(type='RetinaNet', neck=dict(out_channels=8), bbox_head=dict(num_classes=3)), **parts)
        return folder_name(toy_hosts()['TokenDINOv2'](), Config(dict(model=model)), torch.float16)

    assert folder() == folder(neck=dict(out_channels=16)) == folder(bbox_head=dict(num_classes=4), train_cfg=dict(a=1))
    assert folder() != folder(data_preprocessor=dict(pad_size_divisor=14))


def test_validation_runs_the_backbone(tmp_path, monkeypatch):
    hook, runner, backbone = start(tmp_path)
    runs = count_runs(hook, monkeypatch)
    backbone.eval()
    for _ in range(2):
        backbone(torch.ones(1, 3, 32, 32))
    assert runs == [1, 1]
    hook.after_train(runner)
    assert 'forward' not in vars(backbone)


def test_tokens_are_kept_as_maps_are(tmp_path, monkeypatch):
    """However many each picture has: SAT decides by a scale head that stays as it is, and padding leaves."""
    torch.manual_seed(0)
    images = torch.randn(3, 3, 32, 32) * torch.tensor([0.2, 1, 5]).view(-1, 1, 1, 1)
    sat = dict(type='mmtoken.SAT', blocks=1, confidence=0.5, scale=0.54, mask_padding=True, frozen=True)
    hook, _runner, backbone = start(tmp_path, reducer=sat)
    backbone.gives_tokens = True
    padding = torch.zeros(3, 8, 8, dtype=torch.bool)
    padding[1, :, 4:] = True
    with backbone.padded(padding):
        (expected,) = hook.run(images)
        assert len(set(expected.packing.sizes)) == 3
        runs = count_runs(hook, monkeypatch)
        with backbone.padded(padding[:2]):
            backbone(images[:2])
        for _ in range(2):
            (tokens,) = backbone(images)
            assert tokens.packing.sizes == expected.packing.sizes == tokens.packing.lengths.tolist()
            for name in ('x', 'coords', 'sizes'):
                torch.testing.assert_close(getattr(tokens, name), getattr(expected, name))
    assert runs == [2, 1]
    assert backbone(images)[0].packing.sizes[1] > expected.packing.sizes[1], 'without padding it is another picture'


def test_other_weights_or_types_have_other_folders(tmp_path):
    torch.manual_seed(0)
    folder = start(tmp_path)[0].folder
    torch.manual_seed(0)
    assert start(tmp_path)[0].folder == folder
    torch.manual_seed(0)
    assert start(tmp_path, 'float16')[0].folder != folder
    torch.manual_seed(1)
    assert start(tmp_path)[0].folder != folder


def methods() -> list[str]:
    REDUCERS.import_from_location()
    return sorted(REDUCERS.module_dict)


def others(value, words):
    """Values unlike the given one that the same argument may take; which of them it does take, the method says."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [other for other in (value + 1, value - 1, value * 0.9, value + 0.1) if other != value]
    if isinstance(value, str):
        return [word for word in words if word != value] + [0.5]
    if isinstance(value, dict):
        return [{**value, key: part * 2} for key, part in value.items() if type(part) is int and part]
    if isinstance(value, (tuple, list)):
        return [(*value[:-1], last) for last in others(value[-1], words)]
    return [1, 2, 3, 0.5, [1, 2], 'auto', *words]


@pytest.mark.parametrize('method', methods())
def test_each_argument_of_a_method_has_its_folder(method):
    """With an empty config: what the reducer was built with decides, wherever it came from."""
    kind = REDUCERS.get(method)
    words = re.findall(r'``([a-z_]+)``', kind.__doc__)
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    example = {**{k: v for k, v in defaults.items() if v is not inspect.Parameter.empty}, **kind.examples[0]}

    def folder(args):
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope('mmseg'):  # for what the heads are made of
            host = toy_hosts()['TokenDINOv2'](out_indices=(3,), reducer=dict(type=f'mmtoken.{method}', **args))
        return folder_name(host, Config(dict(model=dict())), torch.float16)

    base = folder(example)
    assert folder(example) == base
    tried = set()
    for name in defaults:
        for value in others(example[name], words):
            for args in ({**example, name: value}, {name: value}):  # two arguments may exclude each other
                try:
                    changed = folder(args)
                except (TypeError, ValueError, AssertionError):
                    continue
                tried.add(name)
                assert changed != base, f'{name}={value!r} has the folder of {name}={example[name]!r}'
    assert len(tried) > len(defaults) / 2, tried


def test_what_else_decides_a_feature_has_its_folder(monkeypatch):
    def folder(dtype=torch.float16, host=None, **cfg):
        torch.manual_seed(0)
        backbone = toy_hosts()['TokenDINOv2'](**(host or dict(out_indices=(3,))))
        return folder_name(backbone, Config({**dict(model=dict(backbone=dict(type='x'))), **cfg}), dtype)

    folders = [
        folder(),
        folder(torch.float32),
        folder(host=dict(out_indices=(2,))),
        folder(model=dict(backbone=dict(type='x', reducer=dict(layer=1)))),
        folder(model=dict(backbone=dict(type='x'), auxiliary_head=dict(channels=3))),
        folder(train_dataloader=dict(dataset=dict(data_root='a', pipeline=[dict(type='Resize', scale=3)]))),
        folder(train_dataloader=dict(dataset=dict(data_root='a', pipeline=[dict(type='Resize', scale=4)]))),
    ]
    monkeypatch.setattr(torch, '__version__', 'another')
    folders.append(folder())
    monkeypatch.undo()
    monkeypatch.setattr(feature_cache, 'sources', lambda backbone: set())  # other code
    folders.append(folder())
    assert len(set(folders)) == len(folders)
    monkeypatch.undo()
    one_head, another = (folder(model=dict(backbone=dict(type='x'), decode_head=dict(channels=c))) for c in (1, 2))
    assert one_head == another == folders[0]


def test_pictures_of_one_colour_differ_by_their_shape(tmp_path, monkeypatch):
    hook, _runner, backbone = start(tmp_path)
    assert backbone(torch.zeros(1, 3, 16, 32))[0].shape[-2:] == (4, 8)
    assert backbone(torch.zeros(1, 3, 32, 16))[0].shape[-2:] == (8, 4)
    image = torch.zeros(3, 16, 32)
    names = {hook.path(image), hook.path(image.half()), hook.path(image.bfloat16())}
    with torch.autocast('cpu'):
        names.add(hook.path(image))
    assert len(names) == 4


def test_a_file_that_is_cut_is_made_anew(tmp_path, monkeypatch):
    hook, _runner, backbone = start(tmp_path)
    image = torch.randn(1, 3, 32, 32)
    first = backbone(image)
    (file,) = hook.folder.glob('*')
    for data in (file.read_bytes()[:50], b'', b'something else'):
        file.write_bytes(data)
        runs = count_runs(hook, monkeypatch)
        assert torch.equal(backbone(image)[0], first[0]) and runs == [1]
        assert torch.equal(backbone(image)[0], first[0]) and runs == [1]


def test_a_full_disk_ends_the_cache_and_not_the_training(tmp_path, monkeypatch, caplog):
    hook, _runner, backbone = start(tmp_path)
    image = torch.randn(1, 3, 32, 32)

    def full(*args):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(feature_cache.torch, 'save', full)
    expected = hook.run(image)
    for _ in range(2):
        torch.testing.assert_close(backbone(image)[0], expected[0])
    assert caplog.text.count('Features are no longer kept') == 1 and 'No space left' in caplog.text
    assert not list(hook.folder.glob('.*'))


VARIANTS = dict(
    Cropr=[
        dict(keep=0.5, selector=selector, curriculum=curriculum, random=random)
        for selector, curriculum, random in (
            ('variance', 0, None),
            ('variance', 0.5, None),
            ('random', 0, None),
            ('attention', 0, (0.3, 1.0)),
        )
    ],
    MixedScale=[dict(fine=0.5, random=(0.2, 0.8))],
    SAT=[dict(blocks=1, confidence=0.0, scale=0.54, frozen=True, guided=guided) for guided in (0, 0.5)],
)


@pytest.mark.parametrize('method', methods())
def test_a_method_says_whether_a_picture_gives_other_features_later(method):
    """Training passes at both ends of a training, with other random numbers and labels, over weights that stay."""
    kind, images = REDUCERS.get(method), torch.randn(2, 3, 32, 32)
    boxes = SimpleNamespace(bboxes=torch.tensor([[0.0, 0.0, 20.0, 16.0]]))
    freezes = dict(frozen=True) if 'frozen' in inspect.signature(kind).parameters else {}
    for args in (*kind.examples, *VARIANTS.get(method, ())):
        args = {**args, **freezes}
        with DefaultScope.overwrite_default_scope('mmseg'):
            host = toy_hosts()['TokenDINOv2'](frozen=True, reducer=dict(type=f'mmtoken.{method}', **args))
        if any(parameter.requires_grad for parameter in host.parameters()):  # which the cache refuses
            continue
        host.served = True
        host.train()
        seen = []
        for seed, progress, targets in ((0, 0.0, [dict(gt_instances=boxes)] * 2), (1, 0.4, []), (2, 1.0, [])):
            torch.manual_seed(seed)
            host.reducer.set_progress(progress, int(100 * progress))
            host.reducer.prepare(host, images, [Sample(target) for target in targets])
            seen.append(host(images)[0].detach())
        assert all(torch.equal(seen[0], other) for other in seen[1:]) or host.reducer.varies, args


class Sample(dict):
    __getattr__ = dict.__getitem__


@pytest.mark.parametrize('varies', [*VARIANTS['Cropr'][1:], *VARIANTS['MixedScale']])
def test_what_is_drawn_or_annealed_is_not_kept(tmp_path, varies):
    method = 'MixedScale' if 'fine' in varies else 'Cropr'
    with pytest.raises(ValueError, match=r'keeps what a picture gave once, and the reducer \w+ .* in training'):
        start(tmp_path, reducer=[dict(type=f'mmtoken.{method}', **varies)])
    if method == 'Cropr':
        start(tmp_path, reducer=dict(type='mmtoken.Cropr', **VARIANTS['Cropr'][0]))


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r'needs a frozen backbone, but backbone\.\S+ is trained; set backbone.frozen'):
        start(tmp_path, frozen=False)
    with pytest.raises(ValueError, match=r"set custom_hooks=\[\] with reducer.restore='late'"):
        start(tmp_path, reducer=LATE)
