"""timm's ``VisionTransformerSAM``: the backbones of ViTDet and SAM, windows and decomposed relative positions."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmtoken.core.arguments import check_blocks, check_int
from mmtoken.core.decomposed import decomposed_bias
from mmtoken.core.host import to_map
from mmtoken.registry import MODELS

from .timm_windowed import WindowedTimmHost


@MODELS.register_module()
class TokenTimmSAM(WindowedTimmHost):
    """timm's ``VisionTransformerSAM`` (ViTDet, arXiv 2203.16527; SAM, arXiv 2304.02643) with a token reducer.

    Most blocks attend inside windows; positions are a bias ``q · (Rh[Δy] + Rw[Δx])``. Where the grid is no multiple of
    the window, zeros fill it up and take part in attention, as in the original. Reduced tokens attend to those whose
    centres lie in the same window, and read the bias at the offsets of their centres.

    Parameters have timm's names; those of the classifier are left out. Without a reducer outputs are those of timm's
    ``forward_intermediates``, for pictures of any size. ``tools/model_converters/timm.py`` converts official
    checkpoints.

    Args:
        model (str): Name in timm, such as ``samvit_base_patch16``.
        out_indices (int | Sequence[int]): Blocks to give features after; -1 is the last. Defaults to -1.
        final_norm (bool): Apply SAM's neck of two convolutions to every output, which ViTDet does not have. Defaults to
            False.
        window_size (int, optional): Side of the windows in patches, 0 for none; by default the model's own.
        global_blocks (Sequence[int], optional): Blocks that attend to the whole image; by default the model's own.
        reduce_within (str): ``grid`` lets the reducer merge or cluster over the whole picture, ``window`` inside each
            attention window by itself; see :meth:`init_reducer`. Defaults to ``grid``.
        fit (str, optional): See :class:`mmtoken.TokenTimmViT`.
        frozen_stages (int): See :class:`mmtoken.TokenTimmViT`.
        with_cp (bool): Gradient checkpointing. Defaults to False.
        reducer (dict | Sequence[dict], optional): Token reduction method; a static one if there are windows.
        init_cfg (dict, optional): Initialisation config, such as ``dict(type='Pretrained', checkpoint=…)``.
        **options: Arguments of ``timm.create_model``, such as ``img_size`` (that of the tables of positions),
            ``drop_path_rate`` or ``use_rel_pos``.

    Raises:
        ValueError: In one line that names the argument and what would be right.
    """

    position = 'relative'

    def __init__(self, model: str, out_indices: int | Sequence[int] = -1, final_norm: bool = False, **kwargs: Any):
        super().__init__(model, out_indices, final_norm, **kwargs)

    def with_windows(self, options, size, global_blocks):
        if size is not None:
            options = dict(options, window_size=check_int('backbone.window_size', size, 0))
        if global_blocks is not None:
            options = dict(options, global_attn_indexes=tuple(global_blocks))
        return options

    def init_windows(self, size, global_blocks=None):
        if global_blocks:
            check_blocks('backbone.global_blocks', global_blocks, len(self.blocks))
        self.block_windows = tuple(block.window_size or None for block in self.blocks)
        self.ragged = not any(self.block_windows)

    def adopt(self, model: str, stock: Any) -> None:
        if stock.rope_global is not None:
            raise ValueError('backbone.use_rope=True: TokenTimmSAM runs relative positions; use TokenTimmEva.')
        super().adopt(model, stock)
        self.is_biased = stock.blocks[0].attn.use_rel_pos

    def drop_norm(self) -> None:
        self.neck = nn.Identity()

    def position_table(self, grid: tuple[int, int]) -> Tensor:
        from timm.layers import resample_abs_pos_embed_nhwc

        def resized() -> Tensor:
            return resample_abs_pos_embed_nhwc(self.pos_embed, grid).flatten(1, 2)

        return self.memo(grid, self.pos_embed, resized)

    def bias(self, attn, q, sides, centres):
        return decomposed_bias(q, (attn.rel_pos_h, attn.rel_pos_w), sides, centres)

    def features(self, state, i):
        tokens, raster = self.tap(state)
        return self.neck(to_map(tokens, raster).contiguous())

    def out_norm(self, x, i):
        return x

    @classmethod
    def toy(cls, size):
        sizes = dict(img_size=32, patch_size=4, embed_dim=32, depth=4, num_heads=2, use_abs_pos=False)
        return dict(sizes, model='samvit_base_patch16', window_size=3, global_blocks=(1, 3))
