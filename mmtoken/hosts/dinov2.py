"""A plain ViT with the names of the official DINOv2 checkpoints, which neither mmseg nor mmdet ships."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmtoken.core import TokenHost, TokenState, self_attention
from mmtoken.core.arguments import check_choice
from mmtoken.registry import MODELS

ARCHS: dict[str, dict[str, Any]] = dict(
    small=dict(embed_dims=384, num_layers=12, num_heads=6),
    base=dict(embed_dims=768, num_layers=12, num_heads=12),
    large=dict(embed_dims=1024, num_layers=24, num_heads=16),
    giant=dict(embed_dims=1536, num_layers=40, num_heads=24, ffn='swiglu'),
)


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
        self.gamma = nn.Parameter(torch.full((dims,), init))

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
    ``tools/model_converters/dinov2.py``. Images whose sides are no multiple of the patch are padded at the bottom and
    at the right. The position embedding is always resized by bicubic interpolation to the exact grid, in training as
    in testing (the original shifts its scale by 0.1 patch, which no longer matters once a head is trained on it).

    Args:
        arch (str | dict): ``small``, ``base``, ``large``, ``giant``, or a dict with ``embed_dims``, ``num_layers``,
            ``num_heads`` and optionally ``ffn`` (``mlp`` or ``swiglu``).
        img_size (int): Image side of the checkpoint's position embedding. Defaults to 518.
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
        with_cp (bool): Gradient checkpointing. Defaults to False.
        table (str): How the table of positions serves a picture of another size than ``img_size``: ``resize`` stretches
            it over the picture; ``crop`` reads its upper left part, as SAT-HMR does. Defaults to ``resize``.
        reducer (dict | Sequence[dict], optional): Token reduction method.
        init_cfg (dict, optional): Initialisation config, such as ``dict(type='Pretrained', checkpoint=…)``.
    """

    def __init__(
        self,
        arch: str | dict = 'small',
        img_size: int = 518,
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
        with_cp: bool = False,
        table: str = 'resize',
        reducer=None,
        init_cfg=None,
    ):
        super().__init__(init_cfg=init_cfg)
        if isinstance(arch, str):
            if arch not in ARCHS:
                raise ValueError(f"backbone.arch='{arch}' is unknown; choose one of {', '.join(ARCHS)} or give a dict.")
            arch = ARCHS[arch]
        depth = arch['num_layers']
        out_indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
        if not all(-depth <= i < depth for i in out_indices):
            raise ValueError(f'backbone.out_indices={out_indices} goes beyond the {depth} blocks of this model.')
        self.out_indices = tuple(i % depth for i in out_indices)
        self.embed_dims, self.num_heads = arch['embed_dims'], arch['num_heads']
        self.patch_size, self.num_prefix = patch_size, 1 + num_registers
        self.final_norm, self.output_cls_token, self.with_cp = final_norm, output_cls_token, with_cp
        self.frozen, self.table = frozen, check_choice('backbone.table', table, ('resize', 'crop'))

        dims, side = self.embed_dims, img_size // patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, dims))
        if num_registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, num_registers, dims))
        self.patch_embed = PatchEmbed(patch_size, in_channels, dims)
        rates = [drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(dims, mlp_ratio, arch.get('ffn', 'mlp'), layer_scale, rate) for rate in rates)
        self.norm = nn.LayerNorm(dims, eps=1e-6)
        if frozen:
            self.requires_grad_(False)
        self.init_reducer(reducer)

    def init_weights(self):
        if isinstance(self.init_cfg, dict) and self.init_cfg.get('type') == 'Pretrained':
            return self.load_pretrained(self.init_cfg['checkpoint'], self.init_cfg.get('prefix', ''))
        if self.init_cfg is not None:
            return super().init_weights()
        for name, parameter in self.named_parameters():
            if name.startswith('reducer.'):
                continue
            if name in ('cls_token', 'pos_embed', 'register_tokens') or parameter.dim() == 2:
                nn.init.trunc_normal_(parameter, std=0.02)

    def load_pretrained(self, path: str, prefix: str = '') -> None:
        """Loads a checkpoint, all of it: a backbone that is frozen half at random would go unnoticed.

        Args:
            path (str): File or address.
            prefix (str): Take the parameters under this name, such as ``backbone.``.

        Raises:
            ValueError: If it was made for another architecture.
        """
        state = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        state = state.get('state_dict', state)
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix) and 'mask_token' not in k}
        own = {k: v for k, v in self.state_dict().items() if not k.startswith('reducer.')}
        wrong = [f'{k} is missing' for k in own if k not in state]
        wrong += [f'{k} is unknown' for k in state if k not in own and not k.startswith('reducer.')]
        wrong += [
            f'{k} is {tuple(state[k].shape)}, not {tuple(v.shape)}'
            for k, v in own.items()
            if k in state and state[k].shape != v.shape
        ]
        if wrong:
            raise ValueError(
                f'backbone.init_cfg.checkpoint={path} was made for another architecture ({wrong[0]}); set '
                'backbone.arch, num_registers, img_size and patch_size as it was made.'
            )
        self.load_state_dict(state, strict=False)

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
        side = math.isqrt(patches.shape[1])
        target = grid if self.table == 'resize' else (round(side / stride),) * 2
        if max(grid[0] - target[0], grid[1] - target[1]) > 0:
            raise ValueError(
                f"backbone.table='crop' has positions for {target[0]}x{target[1]} patches, and the picture has "
                f'{grid[0]}x{grid[1]}; set backbone.img_size to its longest side.'
            )
        patches = patches.transpose(1, 2).unflatten(2, (side, side))
        if target != (side, side):
            patches = F.interpolate(patches.float(), target, mode='bicubic', align_corners=False).to(cls.dtype)
        return cls, patches[:, :, : grid[0], : grid[1]].flatten(2).transpose(1, 2)

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
        prefix = self.prefix_tokens(cls_position, len(x), x)
        return TokenState(torch.cat([prefix, x], dim=1), grid, self.num_prefix)

    def attend(self, block, x, layout):
        out, keys = self_attention(
            block.attn.qkv(block.norm1(x)), self.num_heads, lengths=layout.packing, key_bias=layout.key_bias
        )
        return x + block.drop_path(block.ls1(block.attn.proj(out))), keys

    def mlp(self, block, x):
        return x + block.drop_path(block.ls2(block.mlp(block.norm2(x))))

    def out_norm(self, x, i):
        return self.norm(x) if self.final_norm else x

    @classmethod
    def toy(cls, size):
        arch = dict(embed_dims=32, num_layers=4, num_heads=2)
        return dict(arch=arch, img_size=32, patch_size=4, num_registers=2, layer_scale=1.0)

    def train(self, mode: bool = True):
        """A frozen backbone stays in eval mode; its reducer follows ``mode``."""
        super().train(mode and not self.frozen)
        if self.frozen and self.reducer is not None:
            self.reducer.train(mode)
        self.training = mode
        return self
