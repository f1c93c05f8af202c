"""Backbones that come from outside, registered with ``-p newcomers``: the contract holds them without an edit."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from mmtoken.core import (
    Packing,
    Scatter,
    Stage,
    TokenHost,
    TokenState,
    assign_windows,
    read_bias,
    rotary_dinov3,
    self_attention,
    window_attention,
)
from mmtoken.core.host import to_map
from mmtoken.registry import MODELS


class Block(nn.Module):
    """The parameters of a pre-norm block; the backbones run them."""

    def __init__(self, dims, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dims), nn.LayerNorm(dims)
        self.qkv, self.proj = nn.Linear(dims, 3 * dims), nn.Linear(dims, dims)
        self.fc1, self.fc2 = nn.Linear(dims, 4 * dims), nn.Linear(4 * dims, dims)
        self.heads = heads


class Plain(TokenHost, nn.Module):
    """What the made-up backbones share: a patch embedding, four blocks, a norm for each width."""

    embed_dims, num_heads, patch_size = 32, 2, 4

    def __init__(self, reducer=None, out_indices=(3,), widths=(32,) * 4):
        super().__init__()
        self.out_indices = tuple(out_indices)
        self.patch_embed = nn.Conv2d(3, self.embed_dims, self.patch_size, self.patch_size)
        self.blocks = nn.ModuleList(Block(dims, dims // 16) for dims in widths)
        self.norms = nn.ModuleDict({str(dims): nn.LayerNorm(dims) for dims in widths})
        if self.num_prefix:
            self.cls_token = nn.Parameter(torch.zeros(1, self.num_prefix, self.embed_dims))
        self.build(widths)
        self.init_reducer(reducer)

    def build(self, widths):
        """Adds what else a backbone has."""

    def stem(self, inputs):
        down, across = (-side % self.patch_size for side in inputs.shape[-2:])
        x = self.patch_embed(F.pad(inputs, (0, across, 0, down)))
        grid, x = tuple(x.shape[-2:]), x.flatten(2).transpose(1, 2)
        if self.num_prefix:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        return TokenState(x, grid, self.num_prefix)

    def attend(self, block, x, layout):
        out, keys = self_attention(
            block.qkv(block.norm1(x)),
            block.heads,
            lengths=layout.packing,
            rotate=self.rotation(layout),
            key_bias=layout.key_bias,
        )
        return x + block.proj(out), keys

    def rotation(self, layout):
        return None

    def mlp(self, block, x):
        return x + block.fc2(F.gelu(block.fc1(block.norm2(x))))

    def out_norm(self, x, i):
        return self.norms[str(int(x.shape[-1]))](x)  # a tensor while a model is traced

    @classmethod
    def toy(cls, size):
        return {}


@MODELS.register_module()
class Rotary(Plain):
    """A class token, and rotary positions read from the centres of the tokens."""

    num_prefix, position = 1, 'relative'

    def rotation(self, layout):
        return rotary_dinov3(layout.coords, layout.grid, self.embed_dims // self.num_heads)


@MODELS.register_module()
class MixedStem(Plain):
    """Cells of 2×2 patches that differ little become one token: unequal numbers of coarse and fine ones."""

    num_prefix, ragged_stem = 2, True

    def build(self, widths):
        self.positions = nn.Linear(2, self.embed_dims)
        self.coarse = nn.Parameter(torch.zeros(self.embed_dims))

    def stem(self, inputs):
        state = super().stem(inputs)
        positions = self.positions((state.coords / max(state.grid)).to(state.x.dtype))
        state.x = torch.cat([state.prefix, state.patches + positions], dim=1).to(state.x.dtype)
        return state

    def embed(self, inputs, padding=None):
        state = super().embed(inputs, padding)
        patches, padding, extra = state.patches, state.padding, self.num_prefix
        device, (rows, columns) = state.x.device, state.grid
        y, x = torch.arange(rows, device=device)[:, None], torch.arange(columns, device=device)
        cell = (y // 2 * -(-columns // 2) + x // 2).flatten()  # of each patch
        first = y // 2 * 2 * columns + x // 2 * 2  # the first patch of its cell
        is_member = F.one_hot(cell).t().float()
        sizes = is_member.sum(1)
        mean = is_member / sizes[:, None]
        means = mean.to(patches.dtype) @ patches
        with torch.no_grad():
            spread = mean @ (patches - means[:, cell]).float().square().mean(-1, keepdim=True)
            joins = (spread < spread.mean(1, keepdim=True))[..., 0]
            if padding is not None:  # no cell mixes padding and picture
                joins &= (is_member @ padding.float()[..., None])[..., 0] == 0
            joins = joins[:, cell]
        holds = ~joins | (first.flatten() == torch.arange(len(cell), device=device))
        tokens = torch.where(joins[..., None], (means + self.coarse)[:, cell], patches)
        # Where each old token is found among the packed new ones: patches that joined at the first of their cell.
        keep = F.pad(holds, (extra, 0), value=True)
        row = (keep.flatten().cumsum(0) - 1).view_as(keep)
        source = torch.where(joins, first.flatten(), torch.arange(len(cell), device=device))
        index = torch.cat([row[:, :extra], row[:, extra:].gather(1, source)], dim=1)
        centres = torch.where(joins[..., None], (mean @ state.coords)[:, cell], state.coords)
        layout = state.layout.reduced(
            packing=Packing(keep.sum(1)),
            padding=None if padding is None else padding[holds],
            make_coords=centres[holds],
            make_sizes=torch.where(joins, sizes[cell], 1.0)[holds],
        )
        x = torch.cat([state.prefix, tokens.to(state.x.dtype)], dim=1)[keep]
        state.replace(x, Scatter(index.flatten(), (), keep.shape), layout, self)
        return state


@MODELS.register_module()
class Pyramid(Plain):
    """Two stages: windows, shifted in every second block, a bias for each offset, and 2×2 patches become one between.

    What is padding takes no part, neither in windows nor where patches are merged.
    """

    position, window = 'relative', 4

    def __init__(self, *args, **kwargs):
        super().__init__(*args, widths=(32, 32, 64, 64), **kwargs)

    def build(self, widths):
        self.merge = nn.Linear(4 * widths[0], widths[-1])
        for i, block in enumerate(self.blocks):
            block.shift = i % 2
            block.table = nn.Parameter(torch.zeros(2 * self.window - 1, 2 * self.window - 1, block.heads))

    def get_stages(self):
        return tuple(Stage(2 * i, 2, dims, dims // 16, (self.window,) * 2) for i, dims in enumerate((32, 64)))

    def attend(self, block, x, layout):
        slots = None
        if layout.raster is not None:  # a coarser raster has fewer tokens in a window
            slots = math.prod([-(-self.window * few // full) for few, full in zip(layout.raster, layout.grid)])
        windows = assign_windows(
            layout.coords,
            layout.grid,
            self.window,
            shift=block.shift,
            slots=slots,
            valid=None if layout.padding is None else ~layout.padding,
            packing=layout.packing,
        )
        out, keys = window_attention(
            block.qkv(block.norm1(x)),
            block.heads,
            windows,
            bias=read_bias(block.table, windows.offsets()),
            key_bias=layout.key_bias,
        )
        return x + block.proj(out), keys

    def after_block(self, state, i):
        if i != 1:
            return state
        x, padding = state.dense(), state.full_layout.padding
        if padding is not None:
            x = x.masked_fill(padding[..., None], 0)
            padding = self.four(padding[..., None].float(), state.grid, fill=1.0).amin(1).flatten(1) == 1
        plane = self.four(x, state.grid)
        return state.next_stage(self.merge(plane.flatten(2).transpose(1, 2)), plane.shape[-2:], padding)

    @staticmethod
    def four(x, grid, fill=0.0):
        """Four patches of each cell ``(B, 4·C, ⌈H/2⌉, ⌈W/2⌉)``, those beyond the border filled up."""
        plane = F.pad(to_map(x, grid), (0, grid[1] % 2, 0, grid[0] % 2), value=fill)
        return F.pixel_unshuffle(plane, 2)
