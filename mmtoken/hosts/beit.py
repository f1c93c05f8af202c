"""mmseg's BEiT and MAE, whose attention adds a learned bias for each relative position."""

import torch
import torch.nn.functional as F
from mmseg.models.backbones import MAE, BEiT
from torch import Tensor, nn

from mmtoken.core import Layout, TokenHost, TokenState, self_attention
from mmtoken.registry import MODELS

from .projection import linear


def relative_bias(table: Tensor, index: Tensor, window: tuple[int, int], layout: Layout) -> Tensor:
    """Bias of every token pair, for whatever the tokens stand for now.

    On the full grid it is upstream's table look-up. Reduced tokens have centres between the patches, so the table,
    a map over (dy, dx), is read there by bilinear interpolation.

    Args:
        table (Tensor): ``((2·H−1)·(2·W−1)+3, heads)``; the last three rows belong to the class token.
        index (Tensor): Upstream's look-up for the full grid ``(1+H·W, 1+H·W)``.
        window (tuple[int, int]): ``(H, W)``.
        layout (Layout): Read for the centres of its tokens.

    Returns:
        Tensor: ``(B or 1, heads, 1+n, 1+n)``; of a packed batch with the n of its longest image.
    """
    if layout.is_full:
        return table[index.view(-1)].view(*index.shape, -1).permute(2, 0, 1)[None]
    height, width = window
    plane = table[:-3].t().reshape(1, -1, 2 * height - 1, 2 * width - 1)
    coords = layout.coords
    if layout.packing is not None:
        coords = layout.packing.without(layout.num_prefix).pad(coords)
    batch, n, _ = coords.shape
    dy, dx = (coords[:, :, None] - coords[:, None]).unbind(-1)
    offsets = torch.stack([dx / max(width - 1, 1), dy / max(height - 1, 1)], dim=-1)  # grid_sample wants (x, y)
    bias = F.grid_sample(plane.float(), offsets.view(1, batch * n, n, 2), align_corners=True, padding_mode='border')
    bias = bias.view(table.shape[1], batch, n, n).transpose(0, 1).to(table.dtype)
    to_tokens, from_tokens, to_itself = table[-3:].unsqueeze(-1).unbind(0)
    left = from_tokens.expand(-1, n).unsqueeze(-1)
    top = torch.cat([to_itself, to_tokens.expand(-1, n)], dim=1).unsqueeze(1)
    bias = torch.cat([left.expand(batch, -1, -1, -1), bias], dim=-1)
    return torch.cat([top.expand(batch, -1, -1, -1), bias], dim=-2)


class RelativeHost(TokenHost):
    """What BEiT and MAE share."""

    position = 'relative'
    pads = ''
    fit = 'crop'
    any_size = False
    num_prefix = 1

    def __init__(self, *args, reducer=None, fit: str | None = None, frozen_stages: int = -1, **kwargs):
        super().__init__(*args, **kwargs)
        self.init_fit(fit)
        self.init_reducer(reducer)
        self.freeze(frozen_stages)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    def stem(self, inputs: Tensor) -> TokenState:
        x, grid = self.patch_embed(inputs)
        if tuple(grid) != tuple(self.window_size):
            raise ValueError(
                f'The image gives {grid[0]}x{grid[1]} patches, but the position tables of '
                f'{type(self).__name__} are made for {self.window_size[0]}x{self.window_size[1]}; set '
                'backbone.img_size to the size you feed, or use slide inference with that crop.'
            )
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        return TokenState(x, tuple(grid), self.num_prefix)

    def attend(self, block, x, layout):
        attn, x1 = block.attn, block.norm1(x)
        if attn.bias == 'qv_bias':
            qkv = linear(attn.qkv, x1, torch.cat((attn.q_bias, torch.zeros_like(attn.v_bias), attn.v_bias)))
        else:
            qkv = attn.qkv(x1)
        out, keys = self_attention(
            qkv,
            self.num_heads,
            lengths=layout.packing,
            scale=attn.scale,
            bias=relative_bias(
                attn.relative_position_bias_table, attn.relative_position_index, self.window_size, layout
            ),
            key_bias=layout.key_bias,
            dropout_p=attn.attn_drop.p if attn.attn_drop.training else 0.0,
        )
        return x + block.drop_path(block.gamma_1 * attn.proj_drop(attn.proj(out))), keys

    def mlp(self, block, x):
        return x + block.drop_path(block.gamma_2 * block.ffn(block.norm2(x)))

    def out_norm(self, x, i):
        return self.norm1(x) if self.final_norm and i == len(self.layers) - 1 else x

    @classmethod
    def toy(cls, size):
        return dict(embed_dims=32, num_layers=4, num_heads=2, patch_size=4, img_size=tuple(size), final_norm=True)


@MODELS.register_module()
class TokenBEiT(RelativeHost, BEiT):
    """mmseg's ``BEiT`` (arXiv 2106.08254) with fused attention and a token reducer.

    Args:
        reducer (dict | Sequence[dict], optional): Token reduction method.
        fit (str, optional): What comes of pictures whose sides are no multiple of the patch. ``crop`` leaves out what
            is left over at the bottom and on the right, as the stock class does, and is the default; ``resize``
            squeezes them to whole patches instead, so that the map covers the picture exactly.
        frozen_stages (int): Keep what comes before the blocks (0), also the first k blocks (k), or all but the reducer
            (the number of blocks) as they are. Defaults to -1, none of it.
        *args, **kwargs: Those of ``mmseg.models.BEiT``.
    """


@MODELS.register_module()
class TokenMAE(RelativeHost, MAE):
    """mmseg's ``MAE`` (arXiv 2111.06377) with fused attention and a token reducer.

    Args:
        reducer (dict | Sequence[dict], optional): Token reduction method.
        fit (str, optional): What comes of pictures whose sides are no multiple of the patch. ``crop`` leaves out what
            is left over at the bottom and on the right, as the stock class does, and is the default; ``resize``
            squeezes them to whole patches instead, so that the map covers the picture exactly.
        frozen_stages (int): Keep what comes before the blocks (0), also the first k blocks (k), or all but the reducer
            (the number of blocks) as they are. Defaults to -1, none of it.
        *args, **kwargs: Those of ``mmseg.models.MAE``.
    """

    def stem(self, inputs: Tensor) -> TokenState:
        state = super().stem(inputs)
        state.x = state.x + self.pos_embed
        return state
