"""A plain ViT with the names of the official DINOv2 checkpoints, which neither mmseg nor mmdet ships."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmtoken.core import TokenHost, TokenState, token_attention
from mmtoken.core.arguments import check_choice, check_flag, check_int, check_number, check_out_indices
from mmtoken.registry import MODELS

from .pretrained import check_init_cfg, load_strictly
from .projection import queries

ARCHS: dict[str, dict[str, Any]] = dict(
    small=dict(embed_dims=384, num_layers=12, num_heads=6),
    base=dict(embed_dims=768, num_layers=12, num_heads=12),
    large=dict(embed_dims=1024, num_layers=24, num_heads=16),
    giant=dict(embed_dims=1536, num_layers=40, num_heads=24, ffn='swiglu'),
)


def check_arch(arch: str | dict) -> dict:
    """Returns width, depth, heads and kind of MLP of an architecture.

    Raises:
        ValueError: For an unknown name, a missing or unknown entry, or heads that do not divide the width.
    """
    key = 'backbone.arch'
    if not isinstance(arch, dict):
        return ARCHS[check_choice(key, arch, tuple(ARCHS))]
    for name in arch:
        check_choice(f'{key}: entry', name, ('embed_dims', 'num_layers', 'num_heads', 'ffn'))
    arch = dict(dict(embed_dims=None, num_layers=None, num_heads=None, ffn='mlp'), **arch)
    for name, most in (('embed_dims', 16384), ('num_layers', 512), ('num_heads', 1024)):
        check_int(f'{key}.{name}', arch[name], 1, most)
    check_choice(f'{key}.ffn', arch['ffn'], ('mlp', 'swiglu'))
    if arch['embed_dims'] % arch['num_heads']:
        raise ValueError(
            f'{key}.num_heads={arch["num_heads"]} must divide {key}.embed_dims={arch["embed_dims"]}; '
            'each head gets the same width.'
        )
    return arch


class Attention(nn.Module):
    """The projections of multi-head attention; the host runs them."""

    def __init__(self, dims: int):
        super().__init__()
        self.qkv = nn.Linear(dims, dims * 3)
        self.proj = nn.Linear(dims, dims)


class LayerScale(nn.Module):
    """A learned factor for each channel (CaiT, arXiv 2103.17239)."""

    def __init__(self, dims: int, init: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dims,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dims: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden)
        self.fc2 = nn.Linear(hidden, dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """``w3(silu(a) · b)`` with ``a, b = w12(x)`` (arXiv 2002.05202); two thirds of the hidden width, in eights."""

    def __init__(self, dims: int, hidden: int):
        super().__init__()
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dims, 2 * hidden)
        self.w3 = nn.Linear(hidden, dims)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(a) * b)


class Block(nn.Module):
    """One pre-norm transformer block with LayerScale."""

    def __init__(self, dims: int, mlp_ratio: float, ffn: str, layer_scale: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dims, eps=1e-6)
        self.attn = Attention(dims)
        self.ls1 = LayerScale(dims, layer_scale)
        self.norm2 = nn.LayerNorm(dims, eps=1e-6)
        self.mlp = dict(mlp=Mlp, swiglu=SwiGLU)[ffn](dims, int(dims * mlp_ratio))
        self.ls2 = LayerScale(dims, layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()


class PatchEmbed(nn.Module):
    """Non-overlapping patches by one convolution."""

    def __init__(self, patch_size: int, in_channels: int, dims: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dims, patch_size, patch_size)


@MODELS.register_module()
class TokenDINOv2(TokenHost, BaseModule):
    """DINOv2's vision transformer (arXiv 2304.07193; register tokens: arXiv 2309.16588) with a token reducer.

    Parameter names are those of the official checkpoints, so these load as they are; see
    ``tools/model_converters/dinov2.py``.

    The position embedding is resized to the grid of the picture by bicubic interpolation, in training as in testing, by
    default as the official models do it: with registers to the exact size and with antialiasing, without registers
    by a scale that is 0.1 patch too large and without antialiasing.

    Args:
        arch (str | dict): ``small``, ``base``, ``large``, ``giant``, or a dict with ``embed_dims``, ``num_layers``,
            ``num_heads`` and optionally ``ffn`` (``mlp`` or ``swiglu``).
        img_size (int | tuple[int, int]): Image side, or height and width, of the checkpoint's position embedding.
            Defaults to 518.
        patch_size (int): Defaults to 14.
        in_channels (int): Defaults to 3.
        num_registers (int): Register tokens. Defaults to 0.
        mlp_ratio (float): Defaults to 4.
        layer_scale (float): Initial LayerScale. Defaults to 1e-5.
        drop_path_rate (float): Stochastic depth of the last block. Defaults to 0.
        out_indices (int | Sequence[int]): Blocks to give features after; -1 is the last. Defaults to -1.
        final_norm (bool): Apply the final LayerNorm to every output. Defaults to True.
        output_cls_token (bool): Give ``[map, cls]`` for each output. Defaults to False.
        frozen (bool): Train none of the backbone's own parameters. Defaults to False.
        frozen_stages (int): Keep what comes before the blocks (0), also the first k blocks (k), or all but the reducer
            (the number of blocks) as they are. Defaults to -1, none of it.
        with_cp (bool): Gradient checkpointing. Defaults to False.
        fit (str): What comes of pictures whose sides are no multiple of the patch. ``resize`` stretches them to whole
            patches, so that the map covers the picture exactly, which a segmentor takes for granted. ``pad`` pads them
            at the bottom and on the right: tokens are exactly ``patch_size`` pixels apart, as detectors need it, and
            the map covers the padded picture. Defaults to ``resize``.
        interpolate_offset (float, optional): Added to the height and width of the grid, in patches, when the position
            embedding is scaled. Defaults to 0 with registers and with ``table='crop'``, else to 0.1.
        interpolate_antialias (bool, optional): Resize the position embedding with antialiasing. Defaults to True with
            registers and to False without.
        table (str): How the table of positions serves a picture of another size than ``img_size``: ``resize`` stretches
            it over the picture; ``crop`` reads its upper left part, as SAT-HMR does. Defaults to ``resize``.
        window_size (int, optional): Side of the attention windows in patches; see :meth:`init_windows`. Defaults to
            none: all blocks attend to the whole image.
        global_blocks (Sequence[int], optional): With windows, the blocks that attend to the whole image all the same.
            By default the last of each quarter.
        reduce_within (str): ``grid`` lets the reducer merge or cluster over the whole picture, ``window`` inside each
            attention window by itself; see :meth:`init_reducer`. Defaults to ``grid``.
        reducer (dict | Sequence[dict], optional): Token reduction method.
        init_cfg (dict, optional): Initialisation config, such as ``dict(type='Pretrained', checkpoint=…)``.

    Raises:
        ValueError: In one line that names the argument and what would be right.
    """

    def __init__(
        self,
        arch: str | dict = 'small',
        img_size: int | Sequence[int] = 518,
        patch_size: int = 14,
        in_channels: int = 3,
        num_registers: int = 0,
        mlp_ratio: float = 4,
        layer_scale: float = 1e-5,
        drop_path_rate: float = 0.0,
        out_indices: int | Sequence[int] = -1,
        final_norm: bool = True,
        output_cls_token: bool = False,
        frozen: bool = False,
        frozen_stages: int = -1,
        with_cp: bool = False,
        fit: str = 'resize',
        interpolate_offset: float | None = None,
        interpolate_antialias: bool | None = None,
        table: str = 'resize',
        window_size: int | None = None,
        global_blocks: Sequence[int] | None = None,
        reduce_within: str = 'grid',
        reducer=None,
        init_cfg=None,
    ):
        check_init_cfg(init_cfg)
        super().__init__(init_cfg=init_cfg)
        arch = check_arch(arch)
        dims, depth = arch['embed_dims'], arch['num_layers']
        sides = list(img_size) if isinstance(img_size, (list, tuple)) else [img_size]
        if len(sides) not in (1, 2):
            raise ValueError(f'backbone.img_size={img_size!r} must be a side in pixels, or (height, width).')
        self.patch_size = check_int('backbone.patch_size', patch_size, 1, 1024)
        #: Grid of the position embedding.
        self.table_grid = tuple(check_int('backbone.img_size', side, patch_size, 8192) // patch_size for side in sides)
        self.table_grid = self.table_grid * (3 - len(sides))
        check_int('backbone.in_channels', in_channels, 1, 1024)
        check_int('backbone.num_registers', num_registers, 0, 1024)
        check_number('backbone.mlp_ratio', mlp_ratio, 0, 64, above=True)
        check_number('backbone.layer_scale', layer_scale, 0, above=True)
        check_number('backbone.drop_path_rate', drop_path_rate, 0, 1, below=True)
        self.table = check_choice('backbone.table', table, ('resize', 'crop'))
        if interpolate_offset is None:
            interpolate_offset = 0.0 if num_registers or table == 'crop' else 0.1
        if interpolate_antialias is None:
            interpolate_antialias = num_registers > 0
        self.offset = check_number('backbone.interpolate_offset', interpolate_offset, 0, 1, below=True)
        self.antialias = check_flag('backbone.interpolate_antialias', interpolate_antialias)
        self.out_indices = check_out_indices(out_indices, depth)
        self.embed_dims, self.num_heads, self.num_prefix = dims, arch['num_heads'], 1 + num_registers
        self.final_norm = check_flag('backbone.final_norm', final_norm)
        self.output_cls_token = check_flag('backbone.output_cls_token', output_cls_token)
        self.with_cp = check_flag('backbone.with_cp', with_cp)
        self.init_fit(fit)

        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.table_grid[0] * self.table_grid[1], dims))
        if num_registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, num_registers, dims))
        self.patch_embed = PatchEmbed(patch_size, in_channels, dims)
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dims, mlp_ratio, arch.get('ffn', 'mlp'), layer_scale, rate) for rate in rates)
        self.norm = nn.LayerNorm(dims, eps=1e-6)
        self.init_windows(window_size, global_blocks)
        self.init_reducer(reducer, reduce_within)
        check_int('backbone.frozen_stages', frozen_stages, -1, depth)
        self.freeze(depth if check_flag('backbone.frozen', frozen) else frozen_stages)

    def init_weights(self):
        if isinstance(self.init_cfg, dict) and self.init_cfg.get('type') == 'Pretrained':
            path, prefix = self.init_cfg['checkpoint'], self.init_cfg.get('prefix', '')
            remedy = 'set backbone.arch, num_registers, img_size and patch_size'
            adapt = self.enlarge if self.table == 'crop' else None
            return load_strictly(self, path, prefix, spare=['mask_token'], remedy=remedy, adapt=adapt)
        if self.init_cfg is not None:
            return super().init_weights()
        for name, parameter in self.named_parameters():
            if name.startswith('reducer.'):
                continue
            if name in ('cls_token', 'pos_embed', 'register_tokens') or parameter.dim() == 2:
                nn.init.trunc_normal_(parameter, std=0.02)

    def enlarge(self, state: dict) -> None:
        """Resizes a checkpoint's square table of positions to ours as DINOv2 does, for 0.1 patch more."""
        table = state.get('pos_embed', self.pos_embed)
        side = math.isqrt(table.shape[1] - 1)
        if table.shape[1] != side**2 + 1 or (side, side) == self.table_grid:
            return
        plane = table[:, 1:].transpose(1, 2).unflatten(2, (side, side)).float()
        scale = tuple((n + 0.1) / side for n in self.table_grid)
        plane = F.interpolate(plane, scale_factor=scale, mode='bicubic', align_corners=False)
        state['pos_embed'] = torch.cat([table[:, :1], plane.flatten(2).transpose(1, 2).to(table)], dim=1)

    def positions(self, grid: tuple[int, int], stride: int = 1) -> tuple[Tensor, Tensor]:
        """Returns the position embedding of the class token ``(1, 1, C)`` and of the patches ``(1, H·W, C)``.

        Args:
            grid (tuple[int, int]): ``(H, W)``.
            stride (int): Patches of the table that one of these stands for along a side; matters with
                ``table='crop'``. Defaults to 1.

        Raises:
            ValueError: If the picture is larger than the table that is cropped to it.
        """
        cls, patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        target = grid
        if self.table == 'crop':
            target = round(self.table_grid[0] / stride), round(self.table_grid[1] / stride)
        if max(grid[0] - target[0], grid[1] - target[1]) > 0:
            raise ValueError(
                f"backbone.table='crop' has positions for {target[0]}x{target[1]} patches, and the picture has "
                f'{grid[0]}x{grid[1]}; set backbone.img_size to its longest side.'
            )

        def resized() -> Tensor:
            table = patches.transpose(1, 2).unflatten(2, self.table_grid)
            if target != self.table_grid:
                to: dict[str, Any] = dict(size=target)
                if self.offset:
                    to = dict(scale_factor=tuple((n + self.offset) / side for n, side in zip(target, self.table_grid)))
                table = F.interpolate(
                    table.float(), **to, mode='bicubic', align_corners=False, antialias=self.antialias
                ).to(cls.dtype)
            return table[:, :, : grid[0], : grid[1]].flatten(2).transpose(1, 2)

        return cls, self.memo((grid, target), self.pos_embed, resized)

    def prefix_tokens(self, cls_position: Tensor, batch: int, like: Tensor) -> Tensor:
        """Returns class and register tokens ``(B, P, C)`` in the type of ``like``."""
        prefix = [self.cls_token + cls_position]
        if self.num_prefix > 1:
            prefix.append(self.register_tokens)
        return torch.cat(prefix, dim=1).expand(batch, -1, -1).to(like.dtype)

    def stem(self, inputs: Tensor) -> TokenState:
        p = self.patch_size
        pad_h, pad_w = -inputs.shape[-2] % p, -inputs.shape[-1] % p
        if pad_h or pad_w:
            inputs = F.pad(inputs, (0, pad_w, 0, pad_h))
        x = self.patch_embed.proj(inputs)
        grid = tuple(x.shape[-2:])
        cls_position, positions = self.positions(grid)
        x = x.flatten(2).transpose(1, 2) + positions
        prefix = self.prefix_tokens(cls_position, x.shape[0], x)
        return TokenState(torch.cat([prefix, x], dim=1), grid, self.num_prefix)

    def attend(self, block, x, layout):
        out, keys = token_attention(block.attn.qkv(block.norm1(x)), self.num_heads, layout)
        return x + block.drop_path(block.ls1(block.attn.proj(out))), keys

    def class_query(self, block, x):
        qkv = block.attn.qkv
        return queries(block.norm1(x), qkv.weight, qkv.bias, self.num_heads)

    def mlp(self, block, x):
        return x + block.drop_path(block.ls2(block.mlp(block.norm2(x))))

    def out_norm(self, x, i):
        return self.norm(x) if self.final_norm else x

    @classmethod
    def toy(cls, size):
        arch = dict(embed_dims=32, num_layers=4, num_heads=2)
        return dict(arch=arch, img_size=32, patch_size=4, num_registers=2, layer_scale=1.0)
