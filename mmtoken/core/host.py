"""TokenHost: the pass of every backbone: stem, blocks with a reducer between them, features."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn

from .arguments import check_blocks, check_choice, check_int
from .drop_path import drop_images, images_of
from .folding import let
from .layout import Layout
from .memo import Memo
from .reducer import HostInfo, Reducer, Stage
from .registry import build_reducer
from .state import TokenState
from .tokens import Tokens

#: Called with the state and the number of the block whose MLP comes next; with the depth when the pass is done.
See = Callable[[TokenState, int], None]


#: Hosts mix :class:`TokenHost` into classes of OpenMMLab, which bring no types: Any lets their attributes be read.
Upstream: Any = nn.Module


class TokenHost(Upstream):
    """Mixin over a ViT backbone: runs its blocks with a token reducer between them.

    A host derives from this class first and from the backbone second, so its parameters keep the names of the stock
    checkpoint; those of the reducer are under ``reducer.*``. It implements :meth:`stem`, :meth:`attend` and
    :meth:`mlp`, and overrides the defaults that do not fit it. Attention runs through :mod:`mmtoken.core.attention`
    with or without a reducer.
    """

    # ------------------------------------------------------------------ what a host has
    #: ``blocks`` (nn.ModuleList) is an attribute or a property.
    embed_dims: int
    num_heads: int
    out_indices: Sequence[int]
    patch_size: int
    #: Class and register tokens.
    num_prefix: int = 0
    #: Package that is imported only when the backbone is built.
    needs: str = ''
    #: How positions enter: ``absolute`` (added to the tokens) or ``relative`` (a bias of the attention).
    position: str = 'absolute'
    #: Whether blocks run on packed images of unequal token counts, which dynamic methods make.
    ragged: bool = True
    #: Whether the stem takes pictures of any size, by interpolating its positions.
    any_size: bool = True
    #: Side in patches of the windows inside which methods reduce, see :mod:`mmtoken.core.folding`.
    reduction_window: int | None = None
    #: Blocks after which features are given out: ``out_indices``, or the ends of the stages if it counts those.
    taps: Sequence[int] = ()
    counts_stages: bool = False
    #: Whether images start with unequal numbers of tokens; such a backbone overrides :meth:`embed`.
    ragged_stem: bool = False
    #: Whether blocks run again in the backward pass instead of keeping their activations.
    with_cp: bool = False
    #: Whether the tokens before the first block are an output too.
    out_origin: bool = False
    #: Whether each output is ``[map, class token]``.
    output_cls_token: bool = False
    #: Whether each output is :class:`Tokens`, those of the moment; a model whose head reads tokens sets it.
    gives_tokens: bool = False
    #: What the stem does with a side that is no multiple of the patch: ``corner`` pads at the bottom and on the right,
    #: ``same`` on both sides, an empty text drops what is left over.
    pads: str = 'corner'
    #: What happens to pictures whose sides are no multiple of the patch, see :meth:`init_fit`.
    fit: str = 'pad'
    #: Side of each block's attention windows in patches, see :meth:`init_windows`; empty if there are none.
    block_windows: Sequence[int | None] = ()
    #: Names of the parts before the first block, see :meth:`get_layer_depth`.
    stem_names: Sequence[str] = (
        'cls_token',
        'mask_token',
        'register_tokens',
        'pos_embed',
        'patch_embed',
        'drop_after_pos',
        'ln_pre',
    )
    #: How much of the backbone is frozen, see :meth:`freeze`.
    frozen_until: int = -1
    #: Padding of the batch, if the model sets it, see :meth:`padded`.
    padding: Tensor | None = None
    #: Whether the model runs :meth:`Reducer.finish` and adds :meth:`Reducer.losses`.
    served: bool = False
    reducer: Reducer | None

    def init_reducer(self, reducer: dict | Sequence[dict] | None, within: str = 'grid') -> None:
        """Builds the reducer and checks it against this backbone; a host calls it at the end of ``__init__``.

        It reduces over the whole picture (``grid``) or inside each attention window (``window``), in global blocks too.

        Raises:
            ValueError: If the method and the backbone do not go together, or there are no windows.
        """
        if check_choice('backbone.reduce_within', within, ('grid', 'window')) == 'window':
            self.reduction_window = next(filter(None, map(self.window_of, range(len(self.blocks)))), None)
            if self.reduction_window is None:
                raise ValueError("backbone.reduce_within='window' needs windows; set backbone.window_size, such as 14.")
        self.watchers: list[See] = []
        self.memo = Memo()
        self.taps = self.taps or tuple(self.out_indices)
        self.reducer = build_reducer(reducer)
        if self.reducer is None:
            return
        info = self.info()
        if reason := self.reducer.refuses(info):
            raise ValueError(f'{type(self).__name__}: reducer {type(self.reducer).__name__} {reason}.')
        if self.reducer.dynamic:
            drop_images(self)
        self.reducer.bind(info)

    def init_fit(self, fit: str | None) -> None:
        """Sets what happens to pictures whose sides are no multiple of the patch; a host calls it in ``__init__``.

        Args:
            fit (str, optional): ``resize`` stretches them to whole patches first, so that the map covers the picture
                exactly. ``pad`` (``crop`` on hosts that drop the rest) keeps their scale: tokens are ``patch_size``
                pixels apart, as detectors need it, and the map covers the padded or cut picture. By default ``pad`` or
                ``crop``.

        Raises:
            ValueError: For another value.
        """
        own = 'pad' if self.pads else 'crop'
        self.fit = own if fit is None else check_choice('backbone.fit', fit, ('resize', own))

    def init_windows(self, size: int | None, global_blocks: Sequence[int] | None = None) -> None:
        """Lets blocks attend inside windows, as ViTDet does (arXiv 2203.16527); a host calls it before the reducer.

        Its :meth:`attend` must run on :func:`token_attention`. Windows do not overlap; those at the border are cut off
        there. Class and register tokens lie in none: they attend to all tokens, and all attend to them.

        Args:
            size (int, optional): Side of a window in patches. None lets all blocks attend to the whole image.
            global_blocks (Sequence[int], optional): Blocks that attend to the whole image all the same. By default the
                last of each quarter, such as 2, 5, 8 and 11 of twelve.

        Raises:
            ValueError: If the size is not positive, a block is not there, or there are no windows to except it from.
        """
        key, depth = 'backbone.global_blocks', len(self.blocks)
        if size is None:
            if global_blocks is not None:
                raise ValueError(f'{key}={global_blocks!r} needs backbone.window_size: without, all blocks are global.')
            return
        size = check_int('backbone.window_size', size, 1)
        if global_blocks is None:
            global_blocks = sorted({depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)} - {-1})
        exempt = () if global_blocks in ([], ()) else check_blocks(key, global_blocks, depth)
        self.block_windows = tuple(None if i in exempt else size for i in range(depth))

    def window_of(self, block: int) -> int | None:
        """Returns the side of a block's attention windows in patches; None if it attends to the whole image."""
        return self.block_windows[block] if self.block_windows else None

    def freeze(self, stages: int) -> None:
        """Freezes the first parts of the backbone and keeps them in test mode; a host calls it in ``__init__``.

        Args:
            stages (int): -1 freezes nothing; 0 the parts before the blocks; k also the first k blocks; the number of
                blocks everything but the reducer.

        Raises:
            ValueError: For another number.
        """
        self.frozen_until = check_int('backbone.frozen_stages', stages, -1, len(self.blocks))
        for name, parameter in self.named_parameters():
            if self.is_frozen(name):
                parameter.requires_grad = False

    def is_frozen(self, name: str) -> bool:
        """Returns whether a parameter or a module of this name is frozen by :meth:`freeze`."""
        if self.frozen_until < 0 or name.split('.')[0] == 'reducer':
            return False
        return self.frozen_until == len(self.blocks) or self.get_layer_depth(name)[0] <= self.frozen_until

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Returns the depth of a parameter, for learning rates that fall towards the stem.

        Args:
            param_name (str): Its name.
            prefix (str): Name of the backbone, such as ``backbone.``. Defaults to none.

        Returns:
            tuple[int, int]: The depth: 0 for the parts before the blocks, i + 1 for block i, and the largest depth for
            all else, the reducer included; and the number of depths, blocks + 2.
        """
        number = len(self.blocks) + 2
        if not param_name.startswith(prefix):
            return number - 1, number
        first, _, rest = param_name.removeprefix(prefix).partition('.')
        if first in self.stem_names:
            return 0, number
        if rest and getattr(self, first, None) is self.blocks:
            return int(rest.split('.')[0]) + 1, number
        return number - 1, number

    def info(self) -> HostInfo:
        """Returns what a reducer may know of this backbone."""
        return HostInfo(
            depth=len(self.blocks),
            embed_dims=self.embed_dims,
            num_heads=self.num_heads,
            out_indices=tuple(self.taps),
            num_prefix=0 if self.reduction_window else self.num_prefix,  # they lie in no window
            position=self.position,
            ragged=self.ragged,
            any_size=self.any_size,
            ragged_stem=self.ragged_stem,
            reduction_window=self.reduction_window,
            stages=self.get_stages(),
            host=self,
        )

    def get_stages(self) -> tuple[Stage, ...]:
        """Returns the stages of a pyramid; by default a single one."""
        windows = tuple(map(self.window_of, range(len(self.blocks))))
        return (Stage(0, len(self.blocks), self.embed_dims, self.num_heads, windows),)

    @classmethod
    def toy(cls, size: tuple[int, int]) -> dict[str, Any]:
        """Returns the arguments of a small backbone for the contract tests, see :mod:`mmtoken.testing`.

        Args:
            size (tuple[int, int]): Height and width of the picture in pixels.
        """
        raise NotImplementedError(f'{cls.__name__} has no toy(), which makes a small one for the contract tests.')

    # ------------------------------------------------------------------ what a host gives
    def stem(self, inputs: Tensor) -> TokenState:
        """Turns images ``(B, 3, H, W)`` into tokens with their positions, one for each patch."""
        raise NotImplementedError

    def attend(self, block: nn.Module, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Runs the first half of a block; returns tokens after the residual, and the keys ``(…, heads, d)``."""
        raise NotImplementedError

    def mlp(self, block: nn.Module, x: Tensor) -> Tensor:
        """Runs the second half of a block; returns tokens after the residual of the MLP."""
        raise NotImplementedError

    def out_norm(self, x: Tensor, i: int) -> Tensor:
        """Returns tokens ``(…, C)`` after block ``i`` with the norm of the output; as they are by default."""
        return x

    def features(self, state: TokenState, i: int) -> Any:
        """Returns the output after block ``i`` (-1: before the first), a map ``(B, C, h, w)`` by default."""
        tokens, raster = self.tap(state)
        out = to_map(self.out_norm(tokens, i), raster).contiguous()
        return [out, self.out_norm(state.cls, i)] if self.output_cls_token else out

    def output(self, state: TokenState, i: int) -> Any:
        """Returns the :meth:`features` after block ``i``, or the tokens as they are if :attr:`gives_tokens` is set."""
        if self.gives_tokens:
            return Tokens.of(self.out_norm(state.patches, i), state.layout)
        return self.features(state, i)

    def after_block(self, state: TokenState, i: int) -> TokenState:
        """Returns the state that the next block gets.

        A pyramid merges the patches of ``state.dense()`` here and returns :meth:`TokenState.next_stage`.
        """
        return state

    # ------------------------------------------------------------------ what every host shares
    def forward(self, inputs: Tensor, padding: Tensor | None = None) -> tuple:
        """Runs the backbone.

        Args:
            inputs (Tensor): Images ``(B, 3, H, W)``.
            padding (Tensor, optional): Patches that hold only padding, ``(B, grid_h, grid_w)``, bool.
                Clustering leaves them out, and they merge with each other only.

        Returns:
            tuple: What :meth:`features` gives for each of ``out_indices``.

        Raises:
            ValueError: If an image gives no patch, or the reducer needs a model that finishes its outputs.
        """
        return tuple(self.forward_tokens(inputs, padding)[0])

    def forward_tokens(self, inputs: Tensor, padding: Tensor | None = None) -> tuple[list, TokenState]:
        """Runs the backbone; returns the outputs and the token state after the last block."""
        self.check_input(inputs)
        inputs = self.fitted(inputs)
        padding = self.padding if padding is None else padding
        reducer = None if inputs.shape[0] == 0 else self.reducer  # an empty batch has nothing to reduce
        state = self.embed(inputs, padding) if reducer is None else reducer.start(self, inputs, padding)
        outs = [self.output(state, -1)] if self.out_origin else []
        state = self.run_blocks(state, range(state.block, len(self.blocks)), reducer, outs)
        for see in self.watchers:
            see(state, len(self.blocks))
        return outs, state

    def check_input(self, inputs: Tensor) -> None:
        """Refuses a batch that would fail or give wrong results later.

        Raises:
            ValueError: See :meth:`forward`.
        """
        reducer = self.reducer
        if reducer is not None and not self.served:
            reason = reducer.finishes or ('it has losses of its own' if reducer.trainable and self.training else '')
            if reason:
                raise ValueError(
                    f"reducer: {reason}; set model.type='mmtoken.TokenEncoderDecoder', which completes "
                    'logits and adds losses.'
                )
        if inputs.shape[0] == 0 and self.training and reducer is not None and reducer.trainable:
            raise ValueError(
                f'The batch is empty, and reducer {type(reducer).__name__} learns from its pictures; leave it out.'
            )
        if min(self.grid_of(inputs.shape[-2:])) < 1:
            raise ValueError(
                f'The image is {inputs.shape[-2]}x{inputs.shape[-1]} pixels, smaller than one patch '
                f'(patch_size={self.patch_size}); feed larger images or resize them in the pipeline.'
            )

    def embed(self, inputs: Tensor, padding: Tensor | None = None) -> TokenState:
        """Makes the full grid of tokens by :meth:`stem`, and notes the padding.

        A backbone that starts with other tokens overrides this and calls ``state.replace`` at the end.

        Args:
            inputs (Tensor): Images ``(B, 3, H, W)``, of any size.
            padding (Tensor, optional): See :meth:`forward`.

        Raises:
            ValueError: If the padding is not bool or has another shape.
        """
        return self.noted(self.stem(self.fitted(inputs)), padding)

    def noted(self, state: TokenState, padding: Tensor | None) -> TokenState:
        """Notes the padding and the output norm in the state of a full grid, and returns it; see :meth:`embed`."""
        state.out_norm = self.out_norm
        if padding is not None:
            shape = (state.x.shape[0], *state.grid)
            if tuple(padding.shape) != shape or padding.dtype != torch.bool:
                raise ValueError(
                    f'padding has shape {tuple(padding.shape)} and type {padding.dtype}; it must be bool, '
                    f'(images, patches down, patches across) = {shape}.'
                )
            state.layout = state.layout.padded(padding.flatten(1))
        return state

    def run_blocks(
        self,
        state: TokenState,
        blocks: Iterable[int],
        reducer: Reducer | None = None,
        outs: list | None = None,
    ) -> TokenState:
        """Runs blocks on tokens.

        Args:
            state (TokenState): Changed in place.
            blocks (Iterable[int]): Numbers of the blocks, in order.
            reducer (Reducer, optional): Called before, inside and after each block. Defaults to none.
            outs (list, optional): Gets the features of ``out_indices``. Without it no features are made and watchers
                are not called, as for a branch beside the pass.

        Returns:
            TokenState: The state after the last block; for a pyramid another object than ``state``.
        """
        for i in blocks:
            block, window = self.blocks[i], self.window_of(i)
            let(reducer and reducer.before, state, i, self.reduction_window)
            state.x, keys = self.run(self.attend, block, state.x, state.layout.windowed(window))
            state.keys = keys if reducer is not None and reducer.needs_keys else None
            let(reducer and reducer.between, state, i, self.reduction_window)
            state.counts.append(math.prod(state.x.shape[:-1]))  # numel() would fix the batch of an exported graph
            for see in self.watchers if outs is not None else ():
                see(state, i)
            state.x = self.run(self.mlp, block, state.x, packing=state.packing)
            let(reducer and reducer.after, state, i, self.reduction_window)
            if outs is not None and i in self.taps:
                outs.append(self.output(state, i))
            state.block = i + 1
            state = self.after_block(state, i)
        return state

    def run(self, part: Callable, block: nn.Module, x: Tensor, layout: Layout | None = None, packing=None) -> Any:
        """Runs one half of a block, with gradient checkpointing if ``with_cp`` is set."""
        packing = packing if layout is None else layout.packing
        args = (block, x) if layout is None else (block, x, layout)
        if packing is not None:
            part = images_of(packing)(part)
        if self.with_cp and x.requires_grad:
            return torch.utils.checkpoint.checkpoint(part, *args, use_reentrant=False)
        return part(*args)

    def tap(self, state: TokenState) -> tuple[Tensor, tuple[int, int]]:
        """Returns the patch tokens of an output ``(B, h·w, C)`` and their raster, normally the full grid."""
        if self.reducer is not None and self.reducer.gives_reduced_maps and state.raster is not None:
            return state.patches, state.raster
        return state.dense(), state.grid

    def grid_of(self, size: Sequence[int]) -> tuple[int, int]:
        """Returns the patches down and across of a picture of ``(height, width)`` pixels."""
        patch = self.patch_size
        height, width = (-(-side // patch) if self.pads else side // patch for side in size)
        return height, width

    def fitted(self, inputs: Tensor) -> Tensor:
        """Returns pictures ``(B, 3, H, W)`` as the stem takes them, see :meth:`init_fit`."""
        size = tuple(side * self.patch_size for side in self.grid_of(inputs.shape[-2:]))
        if self.fit != 'resize' or size == tuple(inputs.shape[-2:]):
            return inputs
        return F.interpolate(inputs, size, mode='bilinear', align_corners=False)

    def padding_of(self, inputs: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor | None:
        """Returns which patches hold only padding ``(B, grid_h, grid_w)``, bool; None if none does.

        Args:
            inputs (Tensor): Images ``(B, 3, H, W)``, padded at the bottom and on the right.
            sizes (Sequence[tuple[int, int]]): Height and width of each without padding, in pixels.
        """
        sides = inputs.shape[-2:]
        grid = self.grid_of(sides)
        # Pixels that the grid covers, and padding pixels before the picture.
        spans = sides if self.fit == 'resize' else [n * self.patch_size for n in grid]
        before = [max(span - side, 0) // 2 if self.pads == 'same' else 0 for span, side in zip(spans, sides)]
        # Patches down and across that hold at least one pixel of the picture.
        real = [
            [min(-(-(before[axis] + size[axis]) * grid[axis] // spans[axis]), grid[axis]) for axis in (0, 1)]
            for size in sizes
        ]
        if all(tuple(one) == grid for one in real):
            return None
        padding = torch.ones(len(real), *grid, dtype=torch.bool, device=inputs.device)
        for image, (down, across) in zip(padding, real):
            image[:down, :across].fill_(False)  # without a copy, which would wait for the GPU
        return padding

    @contextmanager
    def padded(self, padding: Tensor | None) -> Iterator[None]:
        """Inside the ``with`` block, passes take this padding if :meth:`forward` gets none."""
        before, self.padding = self.padding, padding
        try:
            yield
        finally:
            self.padding = before

    @contextmanager
    def watching(self, see: See) -> Iterator[None]:
        """Calls ``see`` during each pass inside the ``with`` block; a watcher must change nothing.

        Args:
            see (Callable): Called with the state and i before the MLP of block i, and with the state and the number of
                blocks at the end of the pass.
        """
        self.watchers.append(see)
        try:
            yield
        finally:
            self.watchers.remove(see)

    def token_counts(self, inputs: Tensor) -> list[float]:
        """Returns the number of patch tokens that enter the MLP of each block, averaged over the batch."""
        with torch.no_grad():
            state = self.forward_tokens(inputs)[1]
        return [count / inputs.shape[0] - state.num_prefix for count in state.counts]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        """Copies parameters of the backbone to the reducer, as :meth:`Reducer.copies` says, if it has no own ones."""
        if self.reducer is not None:
            copies = self.reducer.copies()
            for name in self.reducer.state_dict() if copies else ():
                old = next((copies[new] + name[len(new) :] for new in copies if name.startswith(new)), None)
                if old is not None and prefix + old in state_dict:
                    state_dict.setdefault(f'{prefix}reducer.{name}', state_dict[prefix + old])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def switch_to_deploy(self) -> None:
        """Drops what only training needs; see :meth:`Reducer.switch_to_deploy`."""
        if self.reducer is not None:
            self.reducer.switch_to_deploy()

    def train(self, mode: bool = True):
        """Sets training mode, but leaves frozen parts in test mode; returns the module, as torch does."""
        super().train(mode)
        for name, part in self.named_children():
            names = {f'{name}.{i}': block for i, block in enumerate(part)} if part is self.blocks else {}
            for key, module in {name: part, **names}.items():
                if self.is_frozen(key):
                    module.eval()
        return self


def to_map(tokens: Tensor, raster: tuple[int, int]) -> Tensor:
    """Returns patch tokens ``(B, h·w, C)`` as a map ``(B, C, h, w)``."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *raster)
