"""timm's plain vision transformer: DINOv2, MAE, CLIP, SigLIP, DeiT."""

from mmtoken.registry import MODELS

from .projection import queries
from .timm_base import TimmHost


@MODELS.register_module()
class TokenTimmViT(TimmHost):
    """timm's ``VisionTransformer`` (arXiv 2010.11929) with a token reducer.

    Any model of that class whose blocks are plain: DINOv2 with and without registers, MAE, CLIP, SigLIP, DeiT, … by its
    name in timm. Parameters have timm's names; those of the classifier are left out. Without a reducer outputs are
    those of timm's ``forward_intermediates``, for pictures of any size. ``tools/model_converters/timm.py`` converts
    official checkpoints.

    Args:
        model (str): Name in timm, such as ``vit_small_patch14_dinov2.lvd142m``.
        out_indices (int | Sequence[int]): Blocks to give features after; -1 is the last. Defaults to -1.
        final_norm (bool): Apply the final norm to every output. Defaults to True.
        output_cls_token (bool): Give ``[map, class token]`` for each output. Defaults to False.
        fit (str, optional): What comes of pictures whose sides are no multiple of the patch. ``pad`` pads them at the
            bottom and on the right, as timm does, and is the default; ``resize`` stretches them to whole patches, so
            that the map covers the picture exactly.
        frozen_stages (int): Keep what comes before the blocks (0), also the first k blocks (k), or all but the reducer
            (the number of blocks) as they are. Defaults to -1, none of it.
        with_cp (bool): Gradient checkpointing. Defaults to False.
        window_size (int, optional): Side of the attention windows in patches; see :meth:`init_windows`. Defaults to
            none: all blocks attend to the whole image.
        global_blocks (Sequence[int], optional): With windows, the blocks that attend to the whole image all the same.
            By default the last of each quarter.
        reduce_within (str): ``grid`` lets the reducer merge or cluster over the whole picture, ``window`` inside each
            attention window by itself; see :meth:`init_reducer`. Defaults to ``grid``.
        reducer (dict | Sequence[dict], optional): Token reduction method, such as
            ``dict(type='mmtoken.Expedit', layer=6, grid=0.5)``.
        init_cfg (dict, optional): Initialisation config, such as ``dict(type='Pretrained', checkpoint=…)``.
        **options: Arguments of ``timm.create_model``, such as ``img_size`` (that of the table of positions),
            ``patch_size``, ``drop_path_rate`` or ``class_token``.

    Raises:
        ValueError: In one line that names the argument and what would be right.
    """

    def class_query(self, block, x):
        attn = block.attn
        return attn.q_norm(queries(block.norm1(x), attn.qkv.weight, attn.qkv.bias, self.num_heads))

    @classmethod
    def toy(cls, size):
        sizes = dict(img_size=32, patch_size=4, embed_dim=32, depth=4, num_heads=2)
        return dict(sizes, model='vit_tiny_patch16_224', pre_norm=True, qk_norm=True, init_values=1.0)
