"""Convert a released SAT-HMR checkpoint into one of ``mmtoken.TokenHumanMesh``, as ``tools/test.py`` takes it.

The body model stays out of it: set ``model.body_model=dict(type='SMPL', model_path=…)``, since these weights speak of
SMPL's poses and shapes.

    python tools/model_converters/sat_hmr.py SRC checkpoints/sat_644.pth
"""

import argparse
import re
from pathlib import Path

import torch

from mmtoken.engine.checkpoints import check_finite, read_checkpoint
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output, replacing

#: Parts of a decoder layer.
LAYER = {
    **{f'sa_{a}{b}_proj': f'self_attn.{a}_{c}' for a in 'qk' for b, c in (('content', 'content'), ('pos', 'position'))},
    **{
        f'ca_{a}{b}_proj': f'cross_attn.{a}_{c}' for a in 'qk' for b, c in (('content', 'content'), ('pos', 'position'))
    },
    'sa_v_proj': 'self_attn.value',
    'ca_v_proj': 'cross_attn.value',
    'ca_qpos_sine_proj': 'cross_attn.q_sine',
    'self_attn.out_proj': 'self_attn.out',
    'cross_attn.out_proj': 'cross_attn.out',
    'linear1': 'ffn.0',
    'linear2': 'ffn.2',
    **{f'norm{n}': f'norm{n}' for n in (1, 2, 3)},
}
#: Beginnings of official names → ours; of networks whose layers are numbered, the numbers double.
NAMES = {
    'encoder.blocks': 'backbone.blocks',
    'encoder.additional_blocks': 'backbone.reducer.blocks',
    'encoder.norm': 'backbone.norm',
    'enc_inter_norm': 'backbone.reducer.norm',
    'encoder_patch_proj.0': 'backbone.patch_embed.proj',
    'encoder_patch_proj.1': 'backbone.reducer.patch_embed.proj',
    'encoder_cr_token': 'backbone.cls_token',
    'encoder_pos_embeds': 'backbone.pos_embed',
    'scale_head.layers': 'backbone.reducer.head',
    'feature_proj': 'memory.project',
    'level_embed': 'memory.level',
    'decoder.decoder.query_scale.layers': 'decoder.query_scale',
    'decoder.decoder.ref_point_head.layers': 'decoder.query_position',
    'decoder.decoder.ref_anchor_head.layers': 'decoder.anchor_size',
    'decoder.decoder.norm': 'decoder.norm',
    'tgt_embed.weight': 'content',
    'refpoint_embed.weight': 'anchors',
    'dn_enc': 'denoising.embed',
    'cam_head.layers': 'heads.camera',
    'conf_head': 'heads.confidence',
    'mean_pose': 'heads.mean_pose',
    'mean_shape': 'heads.mean_shape',
}
#: Numbered networks: of boxes (which the decoder holds a second time), poses and shapes.
NETWORKS = {
    'bbox_embed': 'decoder.boxes',
    'decoder.decoder.bbox_embed': 'decoder.boxes',
    'pose_head': 'heads.pose',
    'shape_head': 'heads.shape',
}
#: Left out: SMPL's arrays, and what DINOv2 brings that the encoder does not read.
LEFT_OUT = re.compile(r'human_model\.|encoder\.(mask_token|cls_token|pos_embed|patch_embed\.)')


def our_name(name: str) -> str | None:
    """The name of an official parameter in our model; None for one that is left out."""
    if LEFT_OUT.match(name):
        return None
    if match := re.fullmatch(r'decoder\.decoder\.layers\.(\d+)\.(.+)\.(weight|bias)', name):
        if match[2] in LAYER:
            return f'decoder.layers.{match[1]}.{LAYER[match[2]]}.{match[3]}'
    if match := re.fullmatch(r'(.+)\.(\d+)\.layers\.(\d+)\.(weight|bias)', name):
        if match[1] in NETWORKS:
            return f'{NETWORKS[match[1]]}.{match[2]}.{2 * int(match[3])}.{match[4]}'
    for old, new in NAMES.items():
        if name == old or name.startswith(f'{old}.'):
            rest = name[len(old) :]
            if old.endswith('.layers'):  # ReLUs stand between ours
                rest = re.sub(r'^\.(\d+)', lambda m: f'.{2 * int(m[1])}', rest)
            return new + rest.replace('.proj.', '.') if 'patch' in old else new + rest
    raise UserError(f'sat_hmr.py: not a checkpoint of SAT-HMR: it also holds {name}')


def convert(state: dict) -> dict:
    """Returns the parameters of :class:`mmtoken.hmr.model.TokenHumanMesh` in those of SAT-HMR.

    Raises:
        UserError: If a parameter is unknown, missing or no tensor.
    """
    state = {name.removeprefix('module.'): value for name, value in state.items()}
    if odd := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise UserError(f'sat_hmr.py: not a checkpoint of SAT-HMR: {odd[0]} is no tensor')
    check_finite(state, 'sat_hmr.py: the source', state)
    out = {}
    for name, value in state.items():
        new = our_name(name)
        if new is not None:
            out[new] = value.detach().float().contiguous()
    for name in NAMES.values():
        if not any(key == name or key.startswith(f'{name}.') for key in out):
            raise UserError(f'sat_hmr.py: not a checkpoint of SAT-HMR: nothing in it becomes {name}')
    cls, table = out['backbone.cls_token'].reshape(1, 1, -1), out['backbone.pos_embed']
    # The position of the class token is a part of that token there.
    table = torch.cat([torch.zeros_like(cls), table.reshape(1, -1, table.shape[-1])], dim=1)
    out.update({'backbone.cls_token': cls, 'backbone.pos_embed': table})
    for name in ('heads.mean_pose', 'heads.mean_shape'):
        out[name] = out[name].flatten()
    return out


@one_line_errors()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', help='checkpoint of SAT-HMR')
    parser.add_argument('dst', type=Path, help='checkpoint to write')
    args = parser.parse_args(argv)
    check_output('dst', args.dst)
    state = read_checkpoint(args.src)
    for key in ('model', 'state_dict'):
        state = state.get(key, state)
    state = convert(state)
    with replacing(args.dst) as part:
        torch.save(dict(state_dict=state, meta=dict(source=Path(args.src).name)), part)
    print(f'{args.dst}: {len(state)} tensors, {sum(value.numel() for value in state.values()):,} parameters')


if __name__ == '__main__':
    main()
