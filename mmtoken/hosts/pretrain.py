"""mmpretrain's vision transformer: its ViT, DeiT, CLIP, MAE, EVA and DINOv2 checkpoints."""

from collections.abc import Sequence

import torch
from mmcv.cnn.bricks import DropPath
from mmpretrain.models.backbones import VisionTransformer
from torch import Tensor, nn

from mmtoken.core import TokenHost, TokenState, token_attention
from mmtoken.core.host import to_map
from mmtoken.registry import MODELS

from .projection import queries


@MODELS.register_module()
class TokenPretrainViT(TokenHost, VisionTransformer):
    """mmpretrain's ``VisionTransformer`` (arXiv 2010.11929) with a token reducer.

    Takes every argument of the stock class, loads its checkpoints and gives the same outputs. Whatever ``out_type``
    gives, the full grid is restored for it first; ``cls_token`` needs no restoring.

    Args:
        reducer (dict | Sequence[dict], optional): Token reduction method, such as
            ``dict(type='mmtoken.Expedit', layer=6, grid=0.5)``.
        out_type (str): As in the stock class, but ``featmap`` by default, which is what dense heads take.
        fit (str, optional): What comes of pictures whose sides are no multiple of the patch. ``resize`` stretches them
            to whole patches, so that the map covers the picture exactly; by default they are padded as in the stock
            class (``pad``), or cut if ``patch_cfg=dict(padding=0)`` (``crop``).
        window_size (int, optional): Side of the attention windows in patches; see :meth:`init_windows`. Defaults to
            none: all blocks attend to the whole image.
        global_blocks (Sequence[int], optional): With windows, the blocks that attend to the whole image all the same.
            By default the last of each quarter.
        reduce_within (str): ``grid`` lets the reducer merge or cluster over the whole picture, ``window`` inside each
            attention window by itself; see :meth:`init_reducer`. Defaults to ``grid``.
        *args, **kwargs: Those of ``mmpretrain.models.VisionTransformer``.

    Raises:
        ValueError: If the reducer restores late and ``out_type`` is no feature map.
    """

    get_layer_depth = VisionTransformer.get_layer_depth

    def __init__(
        self,
        *args,
        reducer=None,
        out_type: str = 'featmap',
        fit: str | None = None,
        window_size: int | None = None,
        global_blocks: Sequence[int] | None = None,
        reduce_within: str = 'grid',
        **kwargs,
    ):
        super().__init__(*args, out_type=out_type, **kwargs)
        padding = self.patch_embed.adaptive_padding
        self.pads = '' if padding is None else padding.padding
        self.init_fit(fit)
        self.num_heads = self.arch_settings['num_heads']
        self.num_prefix = self.num_extra_tokens
        self.patch_size = min(self.patch_embed.projection.kernel_size)
        for module in self.modules():
            if isinstance(module, DropPath):  # upstream's rates are numpy's floats, at which torch.compile stops
                module.drop_prob = float(module.drop_prob)
        self.init_windows(window_size, global_blocks)
        self.init_reducer(reducer, reduce_within)
        if self.reducer is not None and self.reducer.gives_reduced_maps and out_type != 'featmap':
            raise ValueError(
                f"reducer.restore='late' leaves the tokens reduced, which backbone.out_type='{out_type}' "
                "cannot show; set backbone.out_type='featmap', or let the reducer restore the features."
            )

    @property
    def blocks(self) -> nn.ModuleList:
        return self.layers

    def stem(self, inputs: Tensor) -> TokenState:
        x, grid = self.patch_embed(inputs)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = x + self.memo(
            tuple(grid),
            self.pos_embed,
            lambda: self.resize_pos_embed(
                self.pos_embed,
                self.patch_resolution,
                grid,
                mode=self.interpolate_mode,
                num_extra_tokens=self.num_extra_tokens,
            ),
        )
        return TokenState(self.pre_norm(self.drop_after_pos(x)), tuple(grid), self.num_prefix)

    def attend(self, block, x, layout):
        attn = block.attn
        dropout_p = attn.attn_drop if attn.training else 0.0
        out, keys = token_attention(attn.qkv(block.ln1(x)), self.num_heads, layout, dropout_p=dropout_p)
        return x + attn.out_drop(attn.gamma1(attn.proj_drop(attn.proj(out)))), keys

    def class_query(self, block, x):
        qkv = block.attn.qkv
        return queries(block.ln1(x), qkv.weight, qkv.bias, self.num_heads)

    def mlp(self, block, x):
        return block.ffn(block.ln2(x), identity=x)

    def out_norm(self, x, i):
        return self.ln1(x) if self.final_norm and i == len(self.layers) - 1 else x

    def features(self, state, i):
        if self.out_type == 'cls_token':
            return self.out_norm(state.cls, i)
        tokens, raster = self.tap(state)
        if self.out_type == 'featmap':
            return to_map(self.out_norm(tokens, i), raster)
        prefix = state.prefix[:, :1]
        return self._format_output(self.out_norm(torch.cat((prefix, tokens), dim=1), i), raster)

    @classmethod
    def toy(cls, size):
        arch = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=128)
        return dict(arch=arch, img_size=32, patch_size=4)
