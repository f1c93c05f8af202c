"""mmseg's plain vision transformer: Segmenter, SETR, DPT, UPerNet."""

import torch
import torch.nn.functional as F
from mmseg.models.backbones import VisionTransformer
from torch import Tensor, nn

from mmtoken.core import TokenHost, TokenState, self_attention
from mmtoken.registry import MODELS


@MODELS.register_module()
class TokenVisionTransformer(TokenHost, VisionTransformer):
    """mmseg's ``VisionTransformer`` (arXiv 2010.11929) with fused attention and a token reducer.

    Takes every argument of the stock class, loads its checkpoints and gives the same outputs.

    Args:
        reducer (dict | Sequence[dict], optional): Token reduction method, such as
            ``dict(type='mmtoken.Expedit', layer=6, grid=0.5)``.
        *args, **kwargs: Those of ``mmseg.models.VisionTransformer``.
    """

    def __init__(self, *args, reducer=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.embed_dims = self.cls_token.shape[-1]
        self.num_heads = self.layers[0].attn.num_heads
        self.num_prefix = int(self.with_cls_token)
        self.init_reducer(reducer)

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

    def attend(self, block, x, layout):
        attn = block.attn.attn  # mmcv's MultiheadAttention holds torch's, whose weights we use as they are
        qkv = F.linear(block.norm1(x), attn.in_proj_weight, attn.in_proj_bias)
        out, keys = self_attention(
            qkv,
            self.num_heads,
            lengths=layout.packing,
            key_bias=layout.key_bias,
            dropout_p=attn.dropout if self.training else 0.0,
        )
        return x + block.attn.dropout_layer(block.attn.proj_drop(attn.out_proj(out))), keys

    def mlp(self, block, x):
        return block.ffn(block.norm2(x), identity=x)

    def out_norm(self, x, i):
        return self.norm1(x) if self.final_norm and i == len(self.layers) - 1 else x

    @classmethod
    def toy(cls, size):
        return dict(embed_dims=32, num_layers=4, num_heads=2, patch_size=4, img_size=32, final_norm=True)
