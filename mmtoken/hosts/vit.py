"""mmseg's plain vision transformer: Segmenter, SETR, DPT, UPerNet."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmseg.models.backbones import VisionTransformer
from torch import Tensor, nn

from mmtoken.core import Layout, TokenHost, TokenState, token_attention
from mmtoken.registry import MODELS

from .projection import queries


class JointAttention(nn.MultiheadAttention):
    """torch's attention, which also runs through :func:`mmtoken.core.token_attention`.

    The host calls it as a module, so adapters (LoRA), parametrisations and hooks on it and on ``out_proj`` take part.
    """

    def forward(self, query: Tensor, *args, layout: Layout | None = None, **kwargs) -> tuple[Tensor, Tensor | None]:
        """Without a layout like torch's.

        Args:
            query (Tensor): Tokens ``(B, L, C)``, or packed ``(ΣL, C)``.
            layout (Layout, optional): Where they lie.
            *args: As for torch's.
            **kwargs: As for torch's.

        Returns:
            tuple[Tensor, Tensor | None]: Tokens after the output projection, and the keys ``(…, heads, d)``.
        """
        if layout is None:
            return super().forward(query, *args, **kwargs)
        out, keys = token_attention(
            F.linear(query, self.in_proj_weight, self.in_proj_bias),
            self.num_heads,
            layout,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(out), keys


@MODELS.register_module()
class TokenVisionTransformer(TokenHost, VisionTransformer):
    """mmseg's ``VisionTransformer`` (arXiv 2010.11929) with fused attention and a token reducer.

    Takes every argument of the stock class, loads its checkpoints and gives the same outputs.

    Args:
        reducer (dict | Sequence[dict], optional): Token reduction method, such as
            ``dict(type='mmtoken.Expedit', layer=6, grid=0.5)``.
        fit (str, optional): What comes of pictures whose sides are no multiple of the patch. ``pad`` pads them, as the
            stock class does: the map covers the padded picture. ``resize`` stretches them to whole patches instead:
            the map covers the picture exactly. By default as the stock class (``crop`` if ``patch_pad=0``).
        frozen_stages (int): Keep what comes before the blocks (0), also the first k blocks (k), or all but the reducer
            (the number of blocks) as they are. Defaults to -1, none of it.
        window_size (int, optional): Side of the attention windows in patches; see :meth:`init_windows`. Defaults to
            none: all blocks attend to the whole image.
        global_blocks (Sequence[int], optional): With windows, the blocks that attend to the whole image all the same.
            By default the last of each quarter.
        reduce_within (str): ``grid`` lets the reducer merge or cluster over the whole picture, ``window`` inside each
            attention window by itself; see :meth:`init_reducer`. Defaults to ``grid``.
        *args, **kwargs: Those of ``mmseg.models.VisionTransformer``.
    """

    def __init__(
        self,
        *args,
        reducer=None,
        fit: str | None = None,
        frozen_stages: int = -1,
        window_size: int | None = None,
        global_blocks: Sequence[int] | None = None,
        reduce_within: str = 'grid',
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        for layer in self.layers:
            layer.attn.attn.__class__ = JointAttention  # mmcv's MultiheadAttention holds torch's
        padding = self.patch_embed.adap_padding
        self.pads = '' if padding is None else padding.padding
        self.init_fit(fit)
        self.embed_dims = self.cls_token.shape[-1]
        self.num_heads = self.layers[0].attn.num_heads
        self.num_prefix = int(self.with_cls_token)
        self.init_windows(window_size, global_blocks)
        self.init_reducer(reducer, reduce_within)
        self.freeze(frozen_stages)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    def stem(self, inputs: Tensor) -> TokenState:
        x, grid = self.patch_embed(inputs)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self._pos_embeding(x, grid, self.pos_embed)
        if not self.with_cls_token:
            x = x[:, 1:]
        if self.pre_norm:
            x = self.pre_ln(x)
        return TokenState(x, tuple(grid), self.num_prefix)

    def resize_pos_embed(self, pos_embed, input_shape, pos_shape, mode):
        """Like upstream's; see :class:`mmtoken.core.memo.Memo`."""
        resize = VisionTransformer.resize_pos_embed
        return self.memo(tuple(input_shape), pos_embed, lambda: resize(pos_embed, tuple(input_shape), pos_shape, mode))

    def attend(self, block, x, layout):
        out, keys = block.attn.attn(block.norm1(x), layout=layout)
        return x + block.attn.dropout_layer(block.attn.proj_drop(out)), keys

    def class_query(self, block, x):
        attn = block.attn.attn
        return queries(block.norm1(x), attn.in_proj_weight, attn.in_proj_bias, self.num_heads)

    def mlp(self, block, x):
        return block.ffn(block.norm2(x), identity=x)

    def out_norm(self, x, i):
        return self.norm1(x) if self.final_norm and i == len(self.layers) - 1 else x

    @classmethod
    def toy(cls, size):
        return dict(embed_dims=32, num_layers=4, num_heads=2, patch_size=4, img_size=32, final_norm=True)
