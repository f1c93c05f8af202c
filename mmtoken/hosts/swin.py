"""Swin Transformer of mmseg and mmdet: a pyramid whose blocks attend in shifted windows."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmseg.models.backbones import SwinTransformer
from torch import Tensor

from mmtoken.core import Stage, TokenHost, TokenState
from mmtoken.core.arguments import check_int, check_out_indices
from mmtoken.core.shifted import position_bias, raster_attention, scattered_attention
from mmtoken.registry import MODELS


@MODELS.register_module()
class TokenSwin(TokenHost, SwinTransformer):
    """mmseg's and mmdet's ``SwinTransformer`` (arXiv 2103.14030) with fused attention and a token reducer.

    Takes every argument of either class, loads the checkpoints of both and gives the same outputs. A method reduces
    inside the windows of a stage, which goes on with smaller windows; the full grid is restored at its end. ``grid`` of
    a method is that of a window: 8 of 12 tokens a side are ``grid=(8, 8)``. Blocks are counted through all stages, from
    0; ``out_indices`` and ``frozen_stages`` count stages, as upstream's.

    Args:
        reducer (dict | Sequence[dict], optional): Token reduction method, such as
            ``dict(type='mmtoken.Expedit', layer=10, grid=(8, 8))``.
        convert_weights (bool): Whether the checkpoint of ``init_cfg`` has the names of the official repository, as in
            mmdet. Defaults to False.
        with_cp (bool): Gradient checkpointing. Defaults to False.
        fit (str, optional): What comes of pictures whose sides are no multiple of the patch. ``pad`` pads them, as the
            stock class does; ``resize`` stretches them to whole patches. Defaults to ``pad``.
        *args, **kwargs: Those of ``mmseg.models.SwinTransformer``.
    """

    position = 'relative'
    counts_stages = True
    ragged = False

    def __init__(
        self,
        *args: Any,
        reducer: dict | Sequence[dict] | None = None,
        convert_weights: bool = False,
        with_cp: bool = False,
        fit: str | None = None,
        **kwargs: Any,
    ):
        if 'window_size' in kwargs:
            check_int('backbone.window_size', kwargs['window_size'], 1)
        if 'out_indices' in kwargs:
            number = len(kwargs.get('depths', (2, 2, 6, 2)))
            kwargs['out_indices'] = check_out_indices(kwargs['out_indices'], number, 'stage')
        super().__init__(*args, **kwargs)
        self.convert_weights, self.with_cp = convert_weights, with_cp
        self.any_size = not self.use_abs_pos_embed
        self.patch_size = self.patch_embed.projection.kernel_size[0]
        self.init_fit(fit)
        self.embed_dims = self.num_features[0]
        #: Stage of each block.
        self.stage_of = tuple(s for s, stage in enumerate(self.stages) for _ in stage.blocks)
        #: Last block of each stage.
        self.ends = tuple(sum(s <= stage for s in self.stage_of) - 1 for stage in range(len(self.stages)))
        self.num_heads = self.blocks[0].attn.w_msa.num_heads
        self.taps = tuple(self.ends[stage] for stage in self.out_indices)
        self.block_windows = tuple(block.attn.window_size for block in self.blocks)
        self.init_reducer(reducer, within='window')

    @property
    def blocks(self) -> tuple[Any, ...]:
        return tuple(block for stage in self.stages for block in stage.blocks)

    def get_stages(self) -> tuple[Stage, ...]:
        stages, first = [], 0
        for dims, stage in zip(self.num_features, self.stages):
            attn = stage.blocks[0].attn
            depth = len(stage.blocks)
            stages.append(Stage(first, depth, dims, attn.w_msa.num_heads, (attn.window_size,) * depth))
            first += depth
        return tuple(stages)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        number = len(self.blocks) + 2
        name = param_name.removeprefix(prefix) if param_name.startswith(prefix) else ''
        parts = name.split('.')
        if parts[0] in (*self.stem_names, 'absolute_pos_embed'):
            return 0, number
        if parts[0] != 'stages':
            return number - 1, number
        if parts[2] == 'downsample':
            return self.ends[int(parts[1])] + 1, number
        return self.ends[int(parts[1])] - len(self.stages[int(parts[1])].blocks) + int(parts[3]) + 2, number

    def init_weights(self) -> None:
        """Loads the checkpoint of ``init_cfg``, and resizes tables of biases of other windows, as upstream does."""
        if not self.convert_weights:
            return super().init_weights()
        from mmdet.models.backbones import SwinTransformer as Converting

        return Converting.init_weights(self)

    def stem(self, inputs: Tensor) -> TokenState:
        x, grid = self.patch_embed(inputs)
        if self.use_abs_pos_embed:
            if x.shape[1] != self.absolute_pos_embed.shape[1]:
                raise ValueError(
                    f'The image gives {grid[0]}x{grid[1]} patches, and backbone.use_abs_pos_embed has positions for '
                    f'{self.absolute_pos_embed.shape[1]}; feed pictures of pretrain_img_size, or leave them out.'
                )
            x = x + self.absolute_pos_embed
        return TokenState(self.drop_after_pos(x), tuple(grid))

    def attend(self, block, x, layout):
        shifted, attn = block.attn, block.attn.w_msa
        side, shift = shifted.window_size, shifted.shift_size
        slots, shape = layout.window_raster or (side, side), layout.raster or layout.grid
        x1, fill = block.norm1(x), None
        if any(length % n for length, n in zip(shape, slots)):
            qkv = attn.qkv(F.pad(x1, (0, 0, 0, 1)))  # windows at the border are filled up by what zeros become
            qkv, fill = qkv[:, :-1], qkv[:, -1:, None]
        else:
            qkv = attn.qkv(x1)
        options = dict(scale=attn.scale, dropout_p=attn.attn_drop.p if attn.training else 0.0)
        table, heads = attn.relative_position_bias_table, attn.num_heads
        if layout.raster is None:
            out, keys = scattered_attention(qkv, heads, layout, side, shift, table, fill, **options)
        else:
            by = (slots[0] // 2, slots[1] // 2) if shift else (0, 0)
            bias = position_bias(table, side, slots)
            out, keys = raster_attention(qkv, heads, layout, slots, by, bias, fill, **options)
        return x + shifted.drop(attn.proj_drop(attn.proj(out))), keys

    def mlp(self, block, x):
        return block.ffn(block.norm2(x), identity=x)

    def out_norm(self, x, i):
        return getattr(self, f'norm{self.stage_of[i]}')(x)

    def output(self, state: TokenState, i: int) -> Any:
        while state.trail and i in self.ends[:-1]:  # the full grid serves the next stage too
            state.restore()
        return super().output(state, i)

    def after_block(self, state: TokenState, i: int) -> TokenState:
        stage = self.stages[self.stage_of[i]]
        if i != self.ends[self.stage_of[i]] or not stage.downsample:
            return state
        padding = state.full_layout.padding
        x, grid = stage.downsample(state.dense(), state.grid)
        if padding is not None:
            real, merging = (~padding).unflatten(1, state.grid)[:, None].float(), stage.downsample
            real = F.max_pool2d(merging.adap_padding(real), merging.sampler.kernel_size, merging.sampler.stride)
            padding = real.flatten(1) == 0
        return state.next_stage(x, grid, padding)

    @classmethod
    def toy(cls, size):
        sizes: dict[str, Any] = dict(embed_dims=32, depths=(2, 2), num_heads=(2, 4), strides=(4, 2), patch_size=4)
        return dict(sizes, window_size=4, out_indices=(0, 1), drop_path_rate=0.0)
