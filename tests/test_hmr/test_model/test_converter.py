"""tools/model_converters/sat_hmr.py on random weights under the names of the released checkpoint."""

import importlib.util
from pathlib import Path

import pytest
import torch

from mmtoken.engine.errors import UserError

ROOT = Path(__file__).parents[3]
spec = importlib.util.spec_from_file_location('sat_hmr_converter', ROOT / 'tools/model_converters/sat_hmr.py')
converter = importlib.util.module_from_spec(spec)
spec.loader.exec_module(converter)

C, E, LAYERS = 32, 32, 2  # of decoder and encoder


def released():
    """A checkpoint as it is released, but small: names and shapes written out here, not derived from the converter."""
    g = torch.Generator().manual_seed(0)
    state = {}

    def put(name, *shape):
        state[name] = torch.randn(*shape, generator=g)

    def linear(name, out, dims):
        put(f'{name}.weight', out, dims)
        put(f'{name}.bias', out)

    def norm(name, dims):
        put(f'{name}.weight', dims)
        put(f'{name}.bias', dims)

    def mlp(name, *widths):
        for i, (a, b) in enumerate(zip(widths, widths[1:])):
            linear(f'{name}.layers.{i}', b, a)

    for prefix, depth in (('encoder.blocks', 3), ('encoder.additional_blocks', 1)):
        for i in range(depth):
            block = f'{prefix}.{i}'
            norm(f'{block}.norm1', E), norm(f'{block}.norm2', E)
            linear(f'{block}.attn.qkv', 3 * E, E), linear(f'{block}.attn.proj', E, E)
            linear(f'{block}.mlp.fc1', 4 * E, E), linear(f'{block}.mlp.fc2', E, 4 * E)
            put(f'{block}.ls1.gamma', E), put(f'{block}.ls2.gamma', E)
    norm('encoder.norm', E), norm('enc_inter_norm', E)
    put('encoder.mask_token', 1, E)
    for i in (0, 1):
        put(f'encoder_patch_proj.{i}.weight', E, 3, 4, 4), put(f'encoder_patch_proj.{i}.bias', E)
    put('encoder_pos_embeds', 16, 16, E), put('encoder_cr_token', 1, E)
    mlp('scale_head', E, E, E, E, 2)
    linear('feature_proj', C, E), put('level_embed', 3, C)
    for i in range(LAYERS):
        layer = f'decoder.decoder.layers.{i}'
        names = ['sa_qcontent', 'sa_qpos', 'sa_kcontent', 'sa_kpos', 'sa_v']
        names += ['ca_qcontent', 'ca_kcontent', 'ca_kpos', 'ca_v', 'ca_qpos_sine'] + ['ca_qpos'] * (i == 0)
        for name in names:
            linear(f'{layer}.{name}_proj', C, C)
        linear(f'{layer}.self_attn.out_proj', C, C), linear(f'{layer}.cross_attn.out_proj', C, C)
        linear(f'{layer}.linear1', 64, C), linear(f'{layer}.linear2', C, 64)
        norm(f'{layer}.norm1', C), norm(f'{layer}.norm2', C), norm(f'{layer}.norm3', C)
        mlp(f'bbox_embed.{i}', C, C, C, 4)
        for name in [name for name in state if name.startswith(f'bbox_embed.{i}.')]:
            state[f'decoder.decoder.{name}'] = state[name]
        mlp(f'pose_head.{i}', C, *[C] * 5, 144)
        mlp(f'shape_head.{i}', C, *[C] * 4, 10)
    mlp('decoder.decoder.query_scale', C, C, C)
    mlp('decoder.decoder.ref_point_head', 2 * C, C, C)
    mlp('decoder.decoder.ref_anchor_head', C, C, 2)
    norm('decoder.decoder.norm', C)
    mlp('cam_head', C, C // 2, C // 2, 3)
    linear('conf_head', 1, C), linear('dn_enc', C, 82)
    put('tgt_embed.weight', 6, C), put('refpoint_embed.weight', 6, 4)
    put('mean_pose', 144), put('mean_shape', 10)
    put('human_model.v_template', 20, 3)
    return state


def test_every_weight_goes_to_its_place(build, tmp_path):
    state = released()
    torch.save(dict(model=state, epoch=3), tmp_path / 'sat.pth')
    converter.main([str(tmp_path / 'sat.pth'), str(tmp_path / 'ours.pth')])
    made = torch.load(tmp_path / 'ours.pth')['state_dict']
    model = build()
    model.load_state_dict(made)  # strictly
    left = {
        'encoder.mask_token',
        'human_model.v_template',
        *(n for n in state if n.startswith('decoder.decoder.bbox_')),
    }
    values = [made[name] for name in made]
    for name, value in state.items():
        copies = [one for one in values if one.numel() >= value.numel() and one.flatten()[-1] == value.flatten()[-1]]
        assert (len(copies) == 1) or name in left, name
    layer = model.decoder.layers[1]
    assert torch.equal(layer.cross_attn.q_sine.weight, state['decoder.decoder.layers.1.ca_qpos_sine_proj.weight'])
    assert torch.equal(layer.self_attn.k_position.bias, state['decoder.decoder.layers.1.sa_kpos_proj.bias'])
    assert torch.equal(layer.ffn[2].weight, state['decoder.decoder.layers.1.linear2.weight'])
    assert torch.equal(model.decoder.query_position[2].weight, state['decoder.decoder.ref_point_head.layers.1.weight'])
    assert torch.equal(model.heads.pose[1][10].weight, state['pose_head.1.layers.5.weight'])
    reducer = model.backbone.reducer
    assert torch.equal(reducer.patch_embed.proj.weight, state['encoder_patch_proj.1.weight'])
    assert torch.equal(reducer.blocks[0].mlp.fc1.bias, state['encoder.additional_blocks.0.mlp.fc1.bias'])
    assert torch.equal(model.backbone.pos_embed[0, 1:].view(16, 16, E), state['encoder_pos_embeds'])
    assert (model.backbone.pos_embed[0, 0] == 0).all() and torch.equal(model.anchors, state['refpoint_embed.weight'])


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda s: s.update(other=torch.ones(1)), 'it also holds other'),
        (lambda s: s.pop('conf_head.weight') is s.pop('conf_head.bias'), r'nothing in it becomes heads\.confidence'),
        (lambda s: s.update(mean_pose='x'), 'mean_pose is no tensor'),
        (lambda s: s['mean_shape'].fill_(float('nan')), 'mean_shape'),
    ],
)
def test_other_checkpoints_are_refused(change, message):
    state = released()
    change(state)
    with pytest.raises(UserError, match=message):
        converter.convert(state)
