"""timm's ``Eva``: EVA-02 and DINOv3, with rotary positions."""

from typing import Any

from mmtoken.core import Layout, Rotation, rotary_dinov3, rotary_eva02
from mmtoken.registry import MODELS

from .timm_windowed import WindowedTimmHost


@MODELS.register_module()
class TokenTimmEva(WindowedTimmHost):
    """timm's ``Eva`` (EVA-02, arXiv 2303.11331; DINOv3, arXiv 2508.10104) with a token reducer.

    Rotary positions are read from the centres of the tokens, so merged ones are where they lie. With ``window_size`` it
    is the backbone of EVA-02's detectors: windowed blocks rotate by the place inside the window, global ones by the
    place on the grid, both rescaled to the grid of pretraining.

    Parameters have timm's names; those of the classifier are left out. Without a reducer outputs are those of timm's
    ``forward_intermediates``, for pictures of any size. ``tools/model_converters/timm.py`` converts official
    checkpoints.

    Args:
        model (str): Name in timm, such as ``vit_small_patch16_dinov3`` or ``eva02_large_patch14_224``.
        out_indices (int | Sequence[int]): Blocks to give features after; -1 is the last. Defaults to -1.
        final_norm (bool): Apply the final norm to every output; EVA-02's detectors have none. Defaults to True.
        output_cls_token (bool): Give ``[map, class token]`` for each output. Defaults to False.
        window_size (int, optional): Side of the attention windows in patches. Defaults to none: all blocks attend to
            the whole image. EVA-02's detectors have no prefix tokens (``class_token=False``); what fills up windows at
            the border then takes part.
        global_blocks (Sequence[int], optional): With windows, the blocks that attend to the whole image all the same.
            By default the last of each quarter.
        reduce_within (str): ``grid`` lets the reducer merge or cluster over the whole picture, ``window`` inside each
            attention window by itself; see :meth:`init_reducer`. Defaults to ``grid``.
        fit (str, optional): See :class:`mmtoken.TokenTimmViT`.
        frozen_stages (int): See :class:`mmtoken.TokenTimmViT`.
        with_cp (bool): Gradient checkpointing. Defaults to False.
        reducer (dict | Sequence[dict], optional): Token reduction method; a static one for windows without prefix
            tokens.
        init_cfg (dict, optional): Initialisation config, such as ``dict(type='Pretrained', checkpoint=…)``.
        **options: Arguments of ``timm.create_model``, such as ``img_size`` (that of the table of positions, where there
            is one), ``patch_size``, ``drop_path_rate`` or ``class_token``.

    Raises:
        ValueError: In one line that names the argument and what would be right.
    """

    position = 'relative'
    rope: Any
    known_blocks = ('EvaBlock',)
    known_attention = ('EvaAttention', 'AttentionRope')

    def adopt(self, model: str, stock: Any) -> None:
        rope, kinds = getattr(stock, 'rope', None), ('NoneType', 'RotaryEmbeddingCat', 'RotaryEmbeddingDinoV3')
        if type(rope).__name__ not in kinds:
            raise ValueError(
                f'backbone.model={model!r} has rotary positions of kind {type(rope).__name__}; TokenTimmEva runs those '
                'of EVA-02 and DINOv3.'
            )
        if getattr(rope, 'aug_active', False):
            raise ValueError('backbone.rope_…_coords moves positions at random in training, which is not done here.')
        if any(getattr(block.attn, 'num_kv_groups', 1) > 1 for block in stock.blocks):
            raise ValueError(f'backbone.model={model!r} has fewer keys than queries; choose another model.')
        super().adopt(model, stock)
        self.rope = rope  # no parameters; its settings are read

    def rotation(self, layout):
        if self.rope is None:
            return None
        window = layout.window if type(self.rope).__name__ == 'RotaryEmbeddingCat' else None  # DINOv3 spans the picture
        return layout.once(('rotation', window), lambda: self.rotate(layout, window))

    def rotate(self, layout: Layout, window: int | None) -> Rotation:
        """Makes the rotation of each patch token by timm's settings.

        In a windowed block the place on the grid serves as well as that in the window: only differences matter.
        """
        rope, dims = self.rope, self.embed_dims // self.num_heads
        coords, sides = layout.coords + rope.grid_offset, (window, window) if window else layout.grid
        reference = getattr(rope, 'ref_feat_shape', None)
        if rope.grid_indexing == 'xy':
            coords, sides = coords.flip(-1), sides[::-1]
            reference = None if reference is None else reference[::-1]
        if type(rope).__name__ == 'RotaryEmbeddingCat':
            made = rotary_eva02(coords, sides, dims, reference=reference, temperature=float(rope.temperature))
        else:
            made = rotary_dinov3(coords, sides, dims, base=rope.temperature, normalize=rope.normalize_coords)
        return Rotation(made.sin, made.cos, not self.blocks[0].attn.rotate_half)

    def scale(self, block, half, x):
        gamma = getattr(block, f'gamma_{half}')
        return x if gamma is None else gamma * x

    @classmethod
    def toy(cls, size):
        sizes = dict(img_size=32, patch_size=4, embed_dim=32, depth=4, num_heads=2)
        return dict(sizes, model='vit_small_patch16_dinov3_qkvb', num_reg_tokens=2, init_values=1.0)
