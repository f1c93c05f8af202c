"""Convert an official checkpoint into one for the backbone of a config: ``mmtoken.TokenTimmViT``, ``…Eva`` or ``…SAM``.

    python tools/model_converters/timm.py configs/baselines/CONFIG.py sam_vit_b_01ec64.pth checkpoints/sam_vit-b.pth

Files of DINOv2, MAE, CLIP, SigLIP, DeiT, EVA-02, DINOv3, SAM, ViTDet (``.pth``, detectron2's ``.pkl``) and timm's own
(``.safetensors``) are read by timm's checkpoint filters; tables of positions are resized to those of the config. The
result is ``{'state_dict': …, 'meta': …}`` with the names ``backbone.*``, and fits the backbone to the last parameter.
Use it as ``backbone.init_cfg=dict(type='Pretrained', checkpoint=DST, prefix='backbone.')``.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import sys
from functools import partial
from pathlib import Path
from typing import Any

FOLDER = str(Path(__file__).resolve().parent)
sys.path[:] = [path for path in sys.path if path != FOLDER]  # where this file would be taken for the package timm

import torch
from mmengine.registry import init_default_scope

from mmtoken.core.decomposed import stretched
from mmtoken.engine.checkpoints import check_finite, read_checkpoint
from mmtoken.engine.configs import load_config
from mmtoken.engine.errors import UserError, one_line_errors, user_errors
from mmtoken.engine.files import check_output, replacing
from mmtoken.hosts.timm_base import HEADS, PREFIX, TimmHost
from mmtoken.registry import MODELS

#: Where files keep the weights, and the names that detectors put before those of their backbone.
INSIDE = ('model_ema', 'model', 'module', 'teacher', 'state_dict', 'encoder')
BEFORE = ('module.', 'backbone.net.', 'backbone.')
#: Beginnings of names that only pretraining or a detector needs.
SPARE = (*HEADS, 'mask_token', 'lm_head', 'decoder', 'projectors', 'local_cls_norm', 'simfp', 'visual.', 'text.')
#: timm's filter for the models of each host.
FILTERS = dict(
    TokenTimmViT=('vision_transformer', dict(adapt_layer_scale=True)),
    TokenTimmEva=('eva', {}),
    TokenTimmSAM=('vision_transformer_sam', {}),
)


def read(path: Path) -> dict[str, torch.Tensor]:
    """Returns the parameters in a file by name.

    Raises:
        UserError: If it cannot be read, or holds none.
    """
    if not path.is_file():
        raise UserError(f'timm.py: no such file: {path}')
    state: Any
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file

        with user_errors(f'timm.py: {path}'):
            state = load_file(str(path))
    elif path.suffix == '.pkl':  # of detectron2
        from mmtoken.unpickle.arrays import read_pickle

        state = read_pickle(path)
    else:
        state = read_checkpoint(str(path))
    while inner := next(
        (state[key] for key in INSIDE if isinstance(state, dict) and isinstance(state.get(key), dict)), None
    ):
        state = inner
    state = {} if not isinstance(state, dict) else state
    state = {
        k: v if isinstance(v, torch.Tensor) else torch.as_tensor(v) for k, v in state.items() if hasattr(v, 'shape')
    }
    for before in BEFORE:
        if any(name.startswith(before) for name in state):
            state = {k.removeprefix(before): v for k, v in state.items() if k.startswith(before)}
    if not state:
        raise UserError(f'timm.py: {path} holds no parameters by name; give the weights of a ViT')
    check_finite(state, f'timm.py: {path}', state)
    return {name: value.float() for name, value in state.items()}


def without_prefix(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leaves class and register tokens out, and their rows of the table of positions, if that is of a square grid."""
    state = {name: value for name, value in state.items() if name not in (*PREFIX, 'register_tokens', 'storage_tokens')}
    table = state.get('pos_embed')
    if table is not None and table.dim() == 3:
        rows = next((k for k in range(6) if (table.shape[1] - k) ** 0.5 % 1 == 0), 0)
        state['pos_embed'] = table[:, rows:]
    return state


def tables_of(host: TimmHost, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Brings the tables of a SAM or ViTDet to the sizes of the host; timm's filter leaves them as they are."""
    from timm.layers import resample_abs_pos_embed_nhwc

    own, state = host.state_dict(), dict(state)
    if (table := state.get('pos_embed')) is not None and 'pos_embed' in own:
        if table.dim() == 3:  # of a plain ViT
            side = round(table.shape[1] ** 0.5)
            table = table.unflatten(1, (side, -1))
        state['pos_embed'] = resample_abs_pos_embed_nhwc(table, own['pos_embed'].shape[1:3])
    tables = [name for name in own if '.rel_pos_' in name]
    for name in tables:
        if name in state:
            state[name] = stretched(state[name], len(own[name]))
    if not any(name in state for name in tables):  # pretrained without: they start at zero
        state.update({name: torch.zeros_like(own[name]) for name in tables})
    return state


def convert(host: TimmHost, state: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Returns the parameters of a backbone out of those of an official file.

    Raises:
        UserError: If they do not fit.
    """
    kind = type(host).__name__
    module, options = FILTERS[kind]
    if not host.num_prefix:
        state = without_prefix(state)
    filter_fn = partial(importlib.import_module(f'timm.models.{module}').checkpoint_filter_fn, **options)
    with user_errors(f'timm.py: {path} does not fit {kind}'), contextlib.redirect_stdout(io.StringIO()):
        state = filter_fn(state, host)
        if kind == 'TokenTimmSAM':
            state = tables_of(host, state)
    own = {name: value for name, value in host.state_dict().items() if not name.startswith('reducer.')}
    for part in ('weight', 'bias'):  # where a classifier has it after pooling
        if f'norm.{part}' in own and f'fc_norm.{part}' in state:
            state.setdefault(f'norm.{part}', state[f'fc_norm.{part}'])
    spare = SPARE if host.final_norm else (*SPARE, 'norm.', 'neck.')
    wrong = [f'{name} is missing' for name in own if name not in state]
    wrong += [f'{name} is unknown' for name in state if name not in own and not name.startswith(spare)]
    wrong += [
        f'{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}'
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if wrong:
        more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
        raise UserError(
            f'timm.py: {path} does not fit the backbone of the config ({"; ".join(wrong[:3])}{more}); set '
            'backbone.model to the model that it holds'
        )
    return {name: state[name].contiguous() for name in own}


@one_line_errors()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config whose model.backbone is to get the weights')
    parser.add_argument('src', type=Path, help='official checkpoint: .pth, .pt, .pkl or .safetensors')
    parser.add_argument('dst', type=Path, help='checkpoint to write')
    args = parser.parse_args(argv)
    check_output('dst', args.dst)
    cfg = load_config(args.config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    backbone = {k: v for k, v in cfg.model.backbone.items() if k not in ('init_cfg', 'reducer')}
    host = MODELS.build(backbone) if str(backbone.get('type')).startswith('mmtoken.TokenTimm') else None
    if host is None:
        raise UserError(f'timm.py: model.backbone.type={backbone.get("type")} is not over timm; see its own converter')
    state = convert(host, read(args.src), args.src)
    meta = dict(source=args.src.name, source_sha256=hashlib.sha256(args.src.read_bytes()).hexdigest())
    with replacing(args.dst) as part:
        torch.save(dict(state_dict={f'backbone.{k}': v for k, v in state.items()}, meta=meta), part)
    print(f'{args.dst}: {len(state)} tensors, {sum(v.numel() for v in state.values()):,} parameters')


if __name__ == '__main__':
    main()
