"""What the hosts over timm share: its models by name, their parts under timm's names, their blocks in two halves.

timm is imported when the first of these hosts is built.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmtoken.core import Layout, Rotation, TokenHost, TokenState, token_attention
from mmtoken.core.arguments import check_flag, check_int, check_out_indices

from .pretrained import check_init_cfg, load_strictly
from .projection import linear

#: The host that runs each class of timm.
HOSTS = dict(
    VisionTransformer='TokenTimmViT',
    VisionTransformerDistilled='TokenTimmViT',
    Eva='TokenTimmEva',
    VisionTransformerSAM='TokenTimmSAM',
)

#: Parts of a classifier, which a backbone does without, and random masking.
HEADS = ('head', 'head_dist', 'head_drop', 'fc_norm', 'attn_pool', 'patch_drop')

#: Prefix tokens in the order in which timm joins them.
PREFIX = ('cls_token', 'dist_token', 'reg_token')


def build_stock(host: str, model: str, options: dict[str, Any]) -> nn.Module:
    """Builds a model of timm at random weights.

    Args:
        host (str): Name of the host that is to run it.
        model (str): Name in timm, such as ``vit_small_patch14_dinov2.lvd142m``.
        options (dict): Arguments of ``timm.create_model``.

    Raises:
        ValueError: In one line, if timm is missing, does not know the name, or the host does not run the model.
    """
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"mmtoken.{host} runs models of timm, which does not import ({error}); pip install 'mmtoken[timm]'."
        ) from error
    key = f'backbone.model={model!r}'
    if options.pop('pretrained', None):
        raise ValueError(
            f'backbone.pretrained: {host} downloads nothing; convert the official file by '
            "tools/model_converters/timm.py and set backbone.init_cfg=dict(type='Pretrained', checkpoint=…)."
        )
    if not isinstance(model, str) or not timm.is_model(model):
        near = get_close_matches(str(model).split('.')[0], timm.list_models(), 3)
        hint = f'; near it are {", ".join(near)}' if near else ''
        raise ValueError(f'{key} is no model of timm {timm.__version__}{hint}.')
    if options.get('patch_drop_rate'):
        raise ValueError(
            'backbone.patch_drop_rate drops tokens at random in training; leave it out, and use a reducer.'
        )
    if options.get('class_token') is False:
        options.setdefault('global_pool', '')  # some default to the class token
    try:
        stock = timm.create_model(model, pretrained=False, num_classes=0, **options)
    except Exception as error:  # arguments go through several of its layers, each with errors of its own
        raise ValueError(f'{key}: timm refuses the arguments {sorted(options)}: {error}') from error
    kind = type(stock).__name__
    if HOSTS.get(kind) != host:
        other = f'; set backbone.type to mmtoken.{HOSTS[kind]}' if kind in HOSTS else '; take a plain ViT'
        raise ValueError(f"{key} is timm's {kind}, which {host} does not run{other}.")
    return stock


class TimmHost(TokenHost, BaseModule):
    """A model of timm as a host; parameters have timm's names.

    A host over one of its classes says which blocks it runs, and how positions enter them.
    """

    #: Package without which nothing is built.
    needs = 'timm'
    #: Classes of timm whose halves of a block are run here.
    known_blocks: Sequence[str] = ('Block',)
    known_attention: Sequence[str] = ('Attention',)
    stem_names = (*PREFIX, 'pos_embed', 'patch_embed', 'norm_pre', 'pos_drop')

    def __init__(
        self,
        model: str,
        out_indices: int | Sequence[int] = -1,
        final_norm: bool = True,
        output_cls_token: bool = False,
        fit: str | None = None,
        frozen_stages: int = -1,
        with_cp: bool = False,
        window_size: int | None = None,
        global_blocks: Sequence[int] | None = None,
        reduce_within: str = 'grid',
        reducer: dict | Sequence[dict] | None = None,
        init_cfg: dict | Sequence[dict] | None = None,
        **options: Any,
    ):
        check_init_cfg(init_cfg)
        super().__init__(init_cfg)
        options = self.with_windows(options, window_size, global_blocks)
        self.adopt(model, build_stock(type(self).__name__, model, options))
        self.final_norm = check_flag('backbone.final_norm', final_norm)
        if not self.final_norm:
            self.drop_norm()
        self.with_cp = check_flag('backbone.with_cp', with_cp)
        self.output_cls_token = check_flag('backbone.output_cls_token', output_cls_token)
        if output_cls_token and self.cls_token is None:
            raise ValueError(f'backbone.output_cls_token=True: {model} has no class token here; set it to False.')
        self.out_indices = check_out_indices(out_indices, len(self.blocks))
        self.init_fit(fit)
        self.init_windows(window_size, global_blocks)
        self.init_reducer(reducer, reduce_within)
        self.freeze(check_int('backbone.frozen_stages', frozen_stages, -1, len(self.blocks)))

    def with_windows(
        self, options: dict[str, Any], size: int | None, global_blocks: Sequence[int] | None
    ) -> dict[str, Any]:
        """Returns the options of timm with the windows, if timm's class knows any."""
        return options

    def adopt(self, model: str, stock: Any) -> None:
        """Takes over the parts of a model of timm, under its names; a classifier is left behind.

        Raises:
            ValueError: If it has parts that the host does not run.
        """
        block = stock.blocks[0]
        attention: Any = getattr(block, 'attn', None)
        for what, part, known in (
            ('blocks', block, self.known_blocks),
            ('attention', attention, self.known_attention),
            ('a stem', stock.patch_embed, ('PatchEmbed',)),
        ):
            if type(part).__name__ not in known:
                raise ValueError(
                    f'backbone.model={model!r} has {what} of kind {type(part).__name__}, and {type(self).__name__} '
                    f'runs {" and ".join(known)}; choose another model.'
                )
        patch = stock.patch_embed.patch_size
        if patch[0] != patch[1]:
            raise ValueError(f'backbone.patch_size={tuple(patch)} must be square.')
        for name, parameter in stock.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, part in stock.named_children():
            if name not in HEADS:
                self.add_module(name, part)
        if isinstance(getattr(self, 'norm', None), nn.Identity):  # a classifier may have it after pooling
            self.norm = stock.fc_norm
        for name in (*PREFIX, 'pos_embed'):
            if not hasattr(self, name):
                setattr(self, name, None)
        self.head = nn.Identity()  # timm's checkpoint filters look at it
        self.patch_size, self.embed_dims, self.num_heads = patch[0], stock.embed_dim, attention.num_heads
        self.table_grid: tuple[int, int] = tuple(stock.patch_embed.grid_size)
        self.num_prefix = self.num_prefix_tokens = sum(getattr(self, name).shape[1] for name in self.prefix_names())
        #: Whether the table of positions has no rows for the prefix tokens.
        self.no_embed_class = bool(getattr(stock, 'no_embed_class', False))

    def prefix_names(self) -> list[str]:
        """Returns the names of the prefix tokens."""
        return [name for name in PREFIX if getattr(self, name) is not None]

    def drop_norm(self) -> None:
        """Leaves the norm of the outputs away."""
        self.norm = nn.Identity()

    def init_weights(self) -> None:
        """Loads the checkpoint of ``init_cfg``, strictly; without one timm has made the weights already."""
        if isinstance(self.init_cfg, dict) and self.init_cfg.get('type') == 'Pretrained':
            path, prefix = self.init_cfg['checkpoint'], self.init_cfg.get('prefix', '')
            spare = [*HEADS, *(() if self.final_norm else ('norm.', 'neck.'))]
            remedy = 'convert it by tools/model_converters/timm.py, or set backbone.model and img_size'
            return load_strictly(self, path, prefix, spare, remedy)
        if self.init_cfg is not None:
            super().init_weights()

    # ------------------------------------------------------------------ the pass
    def patches(self, inputs: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Returns patch tokens ``(B, H·W, C)`` without positions, and their grid ``(H, W)``."""
        pad = [-side % self.patch_size for side in inputs.shape[-2:]]
        if any(pad):
            inputs = F.pad(inputs, (0, pad[1], 0, pad[0]))
        x = self.patch_embed.proj(inputs)
        return self.patch_embed.norm(x.flatten(2).transpose(1, 2)), (x.shape[-2], x.shape[-1])

    def position_table(self, grid: tuple[int, int]) -> Tensor:
        """Returns the learned positions for a grid, resized as timm does it, prefix first if it has rows for it."""
        from timm.layers import resample_abs_pos_embed

        prefix = 0 if self.no_embed_class else self.num_prefix
        return self.memo(
            grid, self.pos_embed, lambda: resample_abs_pos_embed(self.pos_embed, grid, self.table_grid, prefix)
        )

    def stem(self, inputs: Tensor) -> TokenState:
        x, grid = self.patches(inputs)
        table = None if self.pos_embed is None else self.position_table(grid)
        if table is not None and self.no_embed_class:
            x = x + table
        prefix = [getattr(self, name).expand(len(x), -1, -1) for name in self.prefix_names()]
        x = torch.cat([*prefix, x], dim=1)
        if table is not None and not self.no_embed_class:
            x = x + table
        return TokenState(self.norm_pre(self.pos_drop(x)), grid, self.num_prefix)

    def project(self, attn: Any, x: Tensor) -> Tensor:
        """Returns q, k and v of tokens, one after the other, ``(…, 3·C)``, with the norms of q and k."""
        if attn.qkv is None:
            qkv = torch.cat([attn.q_proj(x), attn.k_proj(x), attn.v_proj(x)], dim=-1)
        elif getattr(attn, 'q_bias', None) is None:
            qkv = attn.qkv(x)
        else:  # k has no bias
            qkv = linear(attn.qkv, x, torch.cat([attn.q_bias, attn.k_bias, attn.v_bias]))
        if isinstance(attn.q_norm, nn.Identity):
            return qkv
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        return torch.cat([part.flatten(-2) for part in (attn.q_norm(q), attn.k_norm(k), v)], dim=-1)

    def rotation(self, layout: Layout) -> Rotation | None:
        """Returns the rotary positions of the patch tokens; none by default."""
        return None

    def attention(self, attn: Any, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Runs attention from the projections to the attended values.

        Args:
            attn (nn.Module): Attention of the block.
            x (Tensor): Tokens ``(B, n, C)``, packed ``(ΣL, C)``.
            layout (Layout): Where they lie, with the window that the block attends in.

        Returns:
            tuple[Tensor, Tensor]: Attended values ``(…, C)`` before the output projection, and the keys
            ``(…, heads, d)``.
        """
        dropout = attn.attn_drop.p if attn.training else 0.0
        return token_attention(
            self.project(attn, x), self.num_heads, layout, rotate=self.rotation(layout), dropout_p=dropout
        )

    def attend(self, block, x, layout):
        attn, x1 = block.attn, block.norm1(x)
        out, keys = self.attention(attn, x1, layout)
        return x + block.drop_path1(self.scale(block, 1, self.merge_heads(attn, out, x1))), keys

    def merge_heads(self, attn: Any, out: Tensor, x: Tensor) -> Tensor:
        """Returns attended values ``(…, C)`` after norm, gate and projection; ``x`` is what attention began with."""
        out = getattr(attn, 'norm', nn.Identity())(out)
        if getattr(attn, 'gate', None) is not None:
            out = out * attn.gate(x).sigmoid()
        return attn.proj_drop(attn.proj(out))

    def scale(self, block: Any, half: int, x: Tensor) -> Tensor:
        """Applies the LayerScale of a half of a block, 1 or 2."""
        return getattr(block, f'ls{half}')(x)

    def mlp(self, block, x):
        return x + block.drop_path2(self.scale(block, 2, block.mlp(block.norm2(x))))

    def out_norm(self, x, i):
        return self.norm(x)
