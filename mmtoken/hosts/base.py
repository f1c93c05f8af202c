"""The loop that every host runs: stem, blocks with a reducer between them, features."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch.utils.checkpoint
from torch import Tensor, nn

from mmtoken.core import HostInfo, Packing, Reducer, ReducerSequence, TokenState
from mmtoken.registry import REDUCERS

from .drop_path import drop_images, images_of


class Features(tuple):
    """Feature maps of a backbone, with the token state that they came from; to a head it is the usual tuple."""

    state: TokenState


def method_of(cfg: dict) -> type[Reducer]:
    """The method that a reducer's config names.

    Raises:
        ValueError: For an unknown one, naming those that exist.
    """
    name = cfg.get('type')
    REDUCERS.import_from_location()
    method = name if isinstance(name, type) else REDUCERS.module_dict.get(str(name).removeprefix('mmtoken.'))
    if method is None:
        known = ', '.join(f'mmtoken.{known}' for known in sorted(REDUCERS.module_dict))
        raise ValueError(f"reducer.type='{name}' is not a token reduction method; choose one of {known}.")
    return method


def build_reducer(cfg: dict | Sequence[dict] | None) -> Reducer | None:
    """Builds the reducer of a config.

    Args:
        cfg (dict | Sequence[dict], optional): ``dict(type='mmtoken.Expedit', …)``, or several of them in order.

    Raises:
        ValueError: For an unknown method, naming those that exist.
        TypeError: For an argument that the method does not have.
    """
    if cfg is None or isinstance(cfg, Reducer):
        return cfg
    if isinstance(cfg, str):
        raise ValueError(f"reducer='{cfg}' must be a dict, such as reducer=dict(type='{cfg}', …).")
    if not isinstance(cfg, dict):
        return ReducerSequence([build_reducer(one) for one in cfg])
    method = method_of(cfg)
    try:
        return method(**{key: value for key, value in cfg.items() if key != 'type'})
    except (TypeError, ValueError) as error:
        raise type(error)(f'reducer {cfg["type"]}: {error}') from error


class TokenHost:
    """Mixin over a ViT backbone: runs its blocks with a token reducer between them.

    A host subclasses the upstream backbone and mixes this in first, so its parameters keep the names of the stock
    checkpoint; those of the reducer live under ``reducer.*``. It gives :meth:`stem`, :meth:`attend`, :meth:`mlp` and
    :meth:`features`; attention runs through :mod:`mmtoken.core.attention` with or without a reducer.
    """

    #: Where positions enter: ``absolute`` (in the tokens) or ``relative`` (in the attention).
    position = 'absolute'
    #: Set by a model that lets the reducer complete what its head makes of the features, and adds its losses.
    completed = False

    def init_reducer(self, reducer: dict | Sequence[dict] | None) -> None:
        """Builds the reducer and checks it against this backbone; to be called at the end of ``__init__``."""
        self.reducer = build_reducer(reducer)
        if self.reducer is not None:
            if self.reducer.dynamic:
                drop_images(self)
            if self.reducer.dynamic and self.position == 'relative':
                raise ValueError(
                    f'reducer {type(self.reducer).__name__} packs images of unequal token counts, which '
                    f'the relative position bias of {type(self).__name__} cannot follow; use a static '
                    'method such as mmtoken.Expedit, or a host with absolute positions.'
                )
            self.reducer.bind(self.info())

    def info(self) -> HostInfo:
        """What a reducer may know of this backbone."""
        return HostInfo(
            depth=len(self.blocks),
            embed_dims=self.embed_dims,
            num_heads=self.num_heads,
            out_indices=tuple(self.out_indices),
            num_prefix=self.num_prefix,
            position=self.position,
        )

    # ------------------------------------------------------------------ what a host gives
    blocks: nn.ModuleList
    num_heads: int
    num_prefix: int

    def stem(self, inputs: Tensor) -> TokenState:
        """Turns images ``(B, 3, H, W)`` into tokens with their positions."""
        raise NotImplementedError

    def attend(self, block: nn.Module, x: Tensor, state: TokenState) -> tuple[Tensor, Tensor]:
        """First half of a block: tokens after the attention's residual, and the keys ``(…, heads, d)``."""
        raise NotImplementedError

    def mlp(self, block: nn.Module, x: Tensor) -> Tensor:
        """Second half of a block: tokens after the MLP's residual."""
        raise NotImplementedError

    def out_norm(self, x: Tensor, i: int) -> Tensor:
        """Norm of tokens ``(…, C)`` that are given out after block ``i``; none by default."""
        return x

    def features(self, state: TokenState, i: int) -> Any:
        """Output after block ``i`` (-1: before the first), normally a map ``(B, C, H, W)``."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what every host shares
    def forward(self, inputs: Tensor, padding: Tensor | None = None) -> tuple:
        """Runs the backbone.

        Args:
            inputs (Tensor): Images ``(B, 3, H, W)``.
            padding (Tensor, optional): Which patches hold nothing but padding, ``(B, grid_h, grid_w)``, bool. They
                take no part in clustering or merging.

        Returns:
            tuple: What :meth:`features` gives for each of ``out_indices``; a :class:`Features` when the model needs
            the token state as well.

        Raises:
            ValueError: If an image is smaller than a patch, or the model does not complete what the reducer
            leaves to it.
        """
        outs, state = self.forward_tokens(inputs, padding)
        reducer = self.reducer
        if reducer is not None and (reducer.completes or (reducer.trainable and self.training)):
            outs = Features(outs)
            outs.state = state
            return outs
        return tuple(outs)

    def forward_tokens(self, inputs: Tensor, padding: Tensor | None = None) -> tuple[list, TokenState]:
        """The loop: like :meth:`forward`, giving the outputs and the token state after the last block."""
        reducer = self.reducer
        if reducer is not None and not self.completed:
            reason = reducer.completes or 'it has losses of its own' * (reducer.trainable and self.training)
            if reason:
                raise ValueError(
                    f"reducer: {reason}; set model.type='mmtoken.TokenEncoderDecoder', which completes "
                    'logits and adds losses.'
                )
        if min(inputs.shape[-2:]) < self.patch_size:
            raise ValueError(
                f'The image is {inputs.shape[-2]}x{inputs.shape[-1]} pixels, smaller than one patch '
                f'(patch_size={self.patch_size}); feed larger images or resize them in the pipeline.'
            )
        state = self.stem(inputs)
        state.out_norm = self.out_norm
        if padding is not None:
            state.padding = padding.flatten(1)
        outs = [self.features(state, -1)] if getattr(self, 'out_origin', False) else []
        for i, block in enumerate(self.blocks):
            if reducer is not None:
                reducer.before(state, i)
            state.x, keys = self.run(self.attend, state.packing, block, state.x, state)
            if reducer is not None:
                state.keys = keys if reducer.needs_keys else None
                reducer.between(state, i)
            state.counts.append(state.x.shape[:-1].numel())
            state.x = self.run(self.mlp, state.packing, block, state.x)
            if reducer is not None:
                reducer.after(state, i)
            if i in self.out_indices:
                outs.append(self.features(state, i))
        return outs, state

    def run(self, part, packing: Packing | None, block: nn.Module, x: Tensor, *args):
        """Runs one half of a block, with gradient checkpointing if the backbone has it switched on."""
        if packing is not None:
            part = images_of(packing)(part)
        if getattr(self, 'with_cp', False) and x.requires_grad:
            # The part runs again in the backward pass, when the state has long moved on, so it gets a copy.
            args = [replace(a, trail=list(a.trail), keys=None) if isinstance(a, TokenState) else a for a in args]
            return torch.utils.checkpoint.checkpoint(part, block, x, *args, use_reentrant=False)
        return part(block, x, *args)

    def tap(self, state: TokenState) -> tuple[Tensor, tuple[int, int]]:
        """Patch tokens to give out ``(B, h·w, C)`` and their raster: the full grid, or the reduced one if late."""
        if self.reducer is not None and self.reducer.late and state.raster is not None:
            return state.patches, state.raster
        return state.dense(), state.grid

    def token_counts(self, inputs: Tensor) -> list[float]:
        """Patch tokens that enter the MLP of each block, mean over the batch."""
        with torch.no_grad():
            state = self.forward_tokens(inputs)[1]
        return [count / inputs.shape[0] - state.num_prefix for count in state.counts]

    def train(self, mode: bool = True):
        """Like upstream's, but gives back the module, as torch's does."""
        super().train(mode)
        return self


def to_map(tokens: Tensor, raster: tuple[int, int]) -> Tensor:
    """Patch tokens ``(B, h·w, C)`` as a map ``(B, C, h, w)``."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *raster)
