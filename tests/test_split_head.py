"""tools/model_converters/split_head.py and dinov2.py --head: apart and together again, a model is what it was."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample

import mmtoken  # noqa: F401
from mmtoken.analysis.loading import quiet_log
from mmtoken.engine.checkpoints import check_checkpoint
from mmtoken.registry import MODELS

TOOLS = Path(__file__).parents[1] / 'tools/model_converters'
MODEL = dict(
    type='mmtoken.TokenHumanMesh',
    backbone=dict(
        type='mmtoken.TokenDINOv2',
        arch=dict(embed_dims=32, num_layers=3, num_heads=2),
        img_size=56,
        fit='pad',
        reducer=dict(type='mmtoken.SAT', blocks=1, mask_padding=True),
    ),
    input_size=112,
    num_queries=5,
    decoder=dict(dims=32, layers=2, heads=2, hidden=64),
    denoising=dict(groups=1),
    test_cfg=dict(score_thr=0.0),
)


def load(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


splitter, converter = load('split_head'), load('dinov2')


def build(seed):
    torch.manual_seed(seed)
    with quiet_log():
        model = MODELS.build(copy.deepcopy(MODEL))
        model.init_weights()
    return model.eval()


@pytest.fixture
def trained(tmp_path):
    """A model whose branch is a copy of its backbone, which lies in ``backbone.pth``; all of it in ``model.pth``."""
    model = build(0)
    own = {name: v for name, v in model.backbone.state_dict().items() if not name.startswith('reducer.')}
    model.backbone.load_state_dict(own, strict=False)  # fills the branch
    torch.save(dict(state_dict=own), tmp_path / 'backbone.pth')
    torch.save(dict(state_dict=model.state_dict(), optimizer={}, meta=dict(iter=7)), tmp_path / 'model.pth')
    return model


def split(folder, *flags, source='model.pth'):
    splitter.main([str(folder / source), str(folder / 'head.pth'), '--backbone', str(folder / 'backbone.pth'), *flags])
    return torch.load(folder / 'head.pth', weights_only=True)


def answer(model):
    torch.manual_seed(1)
    sample = DetDataSample(metainfo=dict(img_shape=(84, 112)))
    return model.predict(torch.randn(1, 3, 84, 112), [sample])[0].pred_instances


@pytest.mark.parametrize('dtype, off', [('float32', 0.0), ('float16', 1e-3), ('float8_e4m3fn', 0.1)])
def test_a_mesh_model_comes_back(trained, tmp_path, dtype, off):
    head = split(tmp_path, '--dtype', dtype, '--note', 'python tools/train.py A')
    names = set(head['state_dict'])
    assert {'content', 'anchors', 'backbone.reducer.head.0.weight', 'decoder.norm.weight'} <= names
    assert not any(name.startswith(('backbone.blocks', 'backbone.reducer.blocks')) for name in names)
    assert {v.dtype for v in head['state_dict'].values() if v.dim() > 1} == {getattr(torch, dtype)}
    vectors = torch.float16 if dtype.startswith('float8') else getattr(torch, dtype)
    assert {v.dtype for v in head['state_dict'].values() if v.is_floating_point() and v.dim() == 1} == {vectors}
    assert head['meta'] == dict(
        source='model.pth', backbone='backbone.pth', iterations=7, note='python tools/train.py A'
    )
    converter.main(
        [str(tmp_path / name) for name in ('backbone.pth', 'whole.pth')] + ['--head', f'{tmp_path}/head.pth']
    )
    other = build(5)
    check_checkpoint(other, str(tmp_path / 'whole.pth'))
    assert all(value.dtype == torch.float32 for value in other.parameters())
    a, b = answer(trained), answer(other)
    torch.testing.assert_close(a.vertices, b.vertices, atol=10 * off, rtol=0)
    torch.testing.assert_close(a.scores, b.scores, atol=off, rtol=0)


def test_a_segmentor_s_head_keeps_its_names(tmp_path):
    state = {'backbone.norm.weight': torch.ones(2), 'decode_head.conv_seg.weight': torch.ones(3, 2, 1, 1)}
    torch.save(dict(state_dict=state), tmp_path / 'model.pth')
    torch.save(dict(state_dict={'norm.weight': torch.ones(2)}), tmp_path / 'backbone.pth')
    head = split(tmp_path)['state_dict']
    assert head.keys() == {'decode_head.conv_seg.weight'} == converter.head_weights(head).keys()


@pytest.mark.parametrize(
    'names',
    [
        ['decode_head.conv_seg.weight', 'auxiliary_head.0.conv_seg.weight', 'neck.convs.0.weight'],
        ['decode_head.conv_seg.weight', 'backbone.reducer.heads.0.conv_seg.weight'],
        ['neck.fpn.weight', 'bbox_head.conv.weight'],
        ['panoptic_head.query_feat.weight'],
        ['decoder.layers.0.weight', 'memory.norm.weight', 'heads.0.weight', 'content'],
    ],
)
def test_every_part_of_a_model_keeps_its_name_and_its_value(tmp_path, names):
    state = {name: torch.randn(3, 2, 1, 1) for name in names}
    body = {'norm.weight': torch.randn(2)}
    torch.save(dict(state_dict=state | {f'backbone.{k}': v for k, v in body.items()}), tmp_path / 'model.pth')
    torch.save(dict(state_dict=body), tmp_path / 'backbone.pth')
    found = converter.head_weights(split(tmp_path)['state_dict'])
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in names)


def test_what_cannot_be_taken_apart_is_one_line(trained, tmp_path, capsys):
    state = trained.state_dict()
    torch.save(state | {'backbone.norm.weight': torch.zeros(32)}, tmp_path / 'tuned.pth')
    torch.save({name: v for name, v in state.items() if not name.startswith('backbone.')}, tmp_path / 'split.pth')
    torch.save(state | {'content': torch.full((5, 32), 1e6)}, tmp_path / 'large.pth')
    for source, flags, words in (
        ('tuned.pth', (), 'tuned.pth: backbone.norm.weight is not that of --backbone'),
        ('split.pth', (), 'split.pth: holds no backbone'),
        ('large.pth', ('--dtype', 'float16'), 'large.pth in float16 holds values of content that are not finite'),
        ('large.pth', ('--dtype', 'float8_e4m3fn'), 'large.pth in float8_e4m3fn holds values of content'),
        ('gone.pth', (), 'gone.pth'),
    ):
        with pytest.raises(SystemExit) as caught:
            split(tmp_path, *flags, source=source)
        lines = capsys.readouterr().err.splitlines()
        assert caught.value.code == 2 and len(lines) == 1 and words in lines[0], lines
    assert not (tmp_path / 'head.pth').exists()
