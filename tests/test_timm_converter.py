"""tools/model_converters/timm.py on small made-up files with the names of the official ones."""

import importlib.util
import pickle
import re
from pathlib import Path

import pytest
import torch

from mmtoken.registry import MODELS

pytest.importorskip('timm')
ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location('timm_converter', ROOT / 'tools/model_converters/timm.py')
converter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(converter)

DIMS, DEPTH = 32, 2
SMALL = dict(img_size=24, patch_size=4, embed_dim=DIMS, depth=DEPTH, num_heads=2)
VIT = dict(SMALL, type='mmtoken.TokenTimmViT', model='vit_small_patch14_dinov2')
EVA = dict(SMALL, type='mmtoken.TokenTimmEva', model='eva02_large_patch14_224')
SAM = dict(SMALL, type='mmtoken.TokenTimmSAM', model='samvit_base_patch16', window_size=4, global_blocks=(1,))
IMAGE = torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def made(backbone):
    """A host with weights that matter."""
    torch.manual_seed(0)
    host = MODELS.build(dict(backbone)).eval()
    for parameter in host.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return host


def convert(tmp_path, backbone, source):
    """Converts a file for a config, loads it through ``init_cfg`` as training does, and returns the host."""
    config, target = tmp_path / 'config.py', tmp_path / 'out.pth'
    config.write_text(f"default_scope = 'mmseg'\nmodel = dict(backbone={dict(backbone)!r})\n")
    converter.main([str(config), str(source), str(target)])
    saved = torch.load(target, weights_only=True)
    assert len(saved['meta']['source_sha256']) == 64 and all(
        name.startswith('backbone.') for name in saved['state_dict']
    )
    init = dict(type='Pretrained', checkpoint=str(target), prefix='backbone.')
    host = MODELS.build(dict(backbone, init_cfg=init)).eval()
    host.init_weights()
    return host


def same(one, other):
    with torch.no_grad():
        a, b = one(IMAGE)[0], other(IMAGE)[0]
    assert b.std() > 0.1
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def write(path, state):
    torch.save(state, path)
    return path


def renamed(state, *pairs):
    for pattern, new in pairs:
        state = {re.sub(pattern, new, name): value for name, value in state.items()}
    return state


@pytest.mark.parametrize('registers', [0, 2])
@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: dict(teacher={f'backbone.{k}': v for k, v in s.items()})])
def test_dinov2(tmp_path, registers, wrap):
    """At the size of its table the outputs are those of TokenDINOv2, which has the official names."""
    arch = dict(embed_dims=DIMS, num_layers=DEPTH, num_heads=2)
    official = made(dict(type='mmtoken.TokenDINOv2', arch=arch, img_size=24, patch_size=4, num_registers=registers))
    state = {**official.state_dict(), 'mask_token': torch.zeros(1, DIMS)}
    model = 'vit_small_patch14_reg4_dinov2' if registers else 'vit_small_patch14_dinov2'
    backbone = dict(VIT, model=model, reg_tokens=registers)
    same(convert(tmp_path, backbone, write(tmp_path / 'dinov2.pth', wrap(state))), official)


def test_tables_and_patches_are_resized(tmp_path):
    source = write(tmp_path / 'dinov2.pth', {**made(VIT).state_dict(), 'mask_token': torch.zeros(1, DIMS)})
    source = write(tmp_path / 'dinov2.pth', renamed(torch.load(source), ('gamma_', 'ls')))
    host = convert(tmp_path, dict(VIT, img_size=(32, 48), patch_size=8), source)
    assert host.pos_embed.shape == (1, 25, DIMS) and host.patch_embed.proj.weight.shape[-1] == 8
    assert host.pos_embed.std() > 0.1


@pytest.mark.parametrize('target', ['ViT', 'ViT without class token', 'ViTDet'])
def test_mae(tmp_path, target):
    plain = dict(VIT, model='vit_base_patch16_224.mae')
    official = made(plain)
    source = write(tmp_path / 'mae.pth', dict(model=official.state_dict()))
    if target == 'ViT':
        return same(convert(tmp_path, plain, source), official)
    backbone = dict(plain, class_token=False) if target.endswith('token') else dict(SAM, img_size=32)
    host = convert(tmp_path, backbone, source)
    assert torch.equal(host.blocks[1].mlp.fc1.weight, official.blocks[1].mlp.fc1.weight)
    if target.endswith('token'):
        assert torch.equal(host.pos_embed, official.pos_embed[:, 1:])
    else:  # the table is stretched; relative positions start at zero
        assert host.pos_embed.shape == (1, 8, 8, DIMS) and host.pos_embed.std() > 0.1
        assert all(not block.attn.rel_pos_h.any() for block in host.blocks)


def eva02_official(host):
    """What EVA-02's files call the parameters, beside buffers and heads that only they have."""
    pairs = (r'attn\.q_proj\.bias', 'attn.q_bias'), (r'attn\.v_proj\.bias', 'attn.v_bias'), (r'mlp\.norm', 'mlp.ffn_ln')
    pairs += (r'mlp\.fc1_g', 'mlp.w1'), (r'mlp\.fc1_x', 'mlp.w2'), (r'mlp\.fc2', 'mlp.w3')
    state = renamed(host.state_dict(), *pairs)
    return {**state, 'rope.freqs_cos': torch.zeros(256, 16), 'blocks.0.attn.rope.freqs_sin': torch.zeros(256, 16)}


def test_eva02(tmp_path):
    official = made(EVA)
    state = dict(eva02_official(official), mask_token=torch.zeros(1, 1, DIMS))
    state.update({'lm_head.weight': torch.zeros(9, DIMS), 'lm_head.bias': torch.zeros(9)})
    same(convert(tmp_path, EVA, write(tmp_path / 'eva02.pt', dict(module=state))), official)


def test_eva02_detector(tmp_path):
    backbone = dict(EVA, class_token=False, window_size=2, global_blocks=(1,), final_norm=False)
    official = made(backbone)
    state = {f'backbone.net.{name}': value for name, value in eva02_official(official).items()}
    table = state['backbone.net.pos_embed']
    state['backbone.net.pos_embed'] = torch.cat([torch.zeros(1, 1, DIMS), table], 1)
    state.update({'backbone.simfp_2.0.weight': torch.zeros(3), 'roi_heads.box_head.fc1.weight': torch.zeros(3)})
    same(convert(tmp_path, backbone, write(tmp_path / 'eva02_det.pth', dict(model=state))), official)


@pytest.mark.parametrize('bias', [False, True])
def test_dinov3(tmp_path, bias):
    model = 'vit_small_patch16_dinov3' + '_qkvb' * bias
    backbone = dict(EVA, model=model)
    official = made(backbone)
    pairs = (r'gamma_(\d)', r'ls\1.gamma'), ('reg_token', 'storage_tokens')
    state = renamed(official.state_dict(), *pairs)
    for i in range(DEPTH):
        names = [f'blocks.{i}.attn.{part}_bias' for part in 'qv']
        q, v = (state.pop(name) if bias else torch.zeros(DIMS) for name in names)
        state[f'blocks.{i}.attn.qkv.bias'] = torch.cat([q, torch.zeros(DIMS), v])
        state[f'blocks.{i}.attn.qkv.bias_mask'] = torch.ones(3 * DIMS)
    state.update({'mask_token': torch.zeros(1, DIMS), 'rope_embed.periods': torch.ones(4)})
    same(convert(tmp_path, backbone, write(tmp_path / 'dinov3.pth', state)), official)


@pytest.mark.parametrize('neck', [False, True])
def test_sam(tmp_path, neck):
    official = made(dict(SAM, final_norm=True))
    state = renamed(official.state_dict(), (r'mlp\.fc', 'mlp.lin'), (r'^', 'image_encoder.'))
    state['mask_decoder.iou_token.weight'] = torch.zeros(1, 3)
    host = convert(tmp_path, dict(SAM, final_norm=neck), write(tmp_path / 'sam.pth', state))
    if neck:
        same(host, official)
    else:
        official.neck = torch.nn.Identity()
        same(host, official)


def test_vitdet(tmp_path):
    """detectron2's pickles hold arrays of numpy; the table is that of pretraining, with a row for the class token."""
    official = made(dict(SAM, img_size=24))
    state = {f'backbone.net.{name}': value.numpy() for name, value in official.state_dict().items()}
    table = official.pos_embed.detach().flatten(1, 2)
    state['backbone.net.pos_embed'] = torch.cat([torch.zeros(1, 1, DIMS), table], 1).numpy()
    state['backbone.simfp_2.0.weight'] = table.numpy()
    path = tmp_path / 'model_final.pkl'
    path.write_bytes(pickle.dumps(dict(model=state, __author__='someone')))
    same(convert(tmp_path, SAM, path), official)


def test_timms_own(tmp_path):
    save = pytest.importorskip('safetensors.torch').save_file
    official = made(VIT)
    save({**official.state_dict(), 'head.weight': torch.zeros(3)}, tmp_path / 'model.safetensors')
    same(convert(tmp_path, VIT, tmp_path / 'model.safetensors'), official)


@pytest.mark.parametrize(
    ('backbone', 'change', 'words'),
    [
        (
            VIT,
            lambda s: {k: v for k, v in s.items() if 'blocks.1' not in k},
            ['blocks.1.norm1.weight is missing', 'more'],
        ),
        (VIT, lambda s: {**s, 'blocks.2.norm1.weight': torch.ones(DIMS)}, ['blocks.2.norm1.weight is unknown']),
        (VIT, lambda s: {**s, 'norm.weight': torch.ones(3)}, ['norm.weight is (3,), not (32,)']),
        (VIT, lambda s: {'conv1.weight': torch.ones(3)}, ['does not fit', 'backbone.model']),
        (VIT, lambda s: dict(epoch=3), ['holds no parameters']),
        (VIT, lambda s: {**s, 'norm.weight': torch.full((DIMS,), torch.nan)}, ['norm.weight', 'not finite']),
        (dict(type='TokenDINOv2'), lambda s: s, ['model.backbone.type=TokenDINOv2 is not over timm']),
        (VIT, None, ['no such file']),
    ],
    ids='missing unknown shape stranger empty nan host no-file'.split(),
)
def test_what_does_not_fit_is_said_in_one_line(tmp_path, backbone, change, words):
    source = tmp_path / 'source.pth'
    if change is not None:
        write(source, change(made(VIT).state_dict()))
    with pytest.raises(SystemExit) as caught:
        convert(tmp_path, backbone, source)
    message = str(caught.value)
    assert caught.value.code == 2 and '\n' not in message and all(word in message for word in words), message
    assert not (tmp_path / 'out.pth').exists()


def test_runs_as_a_script(tmp_path):
    """In its folder it would itself be the package timm."""
    import subprocess
    import sys

    config = tmp_path / 'config.py'
    config.write_text(f'model = dict(backbone={VIT!r})\n')
    source = write(tmp_path / 'dinov2.pth', made(VIT).state_dict())
    command = [sys.executable, str(ROOT / 'tools/model_converters/timm.py'), config, source, tmp_path / 'out.pth']
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0 and 'parameters' in done.stdout, done.stderr
