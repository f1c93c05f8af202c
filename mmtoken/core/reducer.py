"""Reducer: the interface between a token reduction method and a host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from torch import Tensor, nn

from .state import TokenState

if TYPE_CHECKING:
    from .host import TokenHost


@dataclass(frozen=True)
class Stage:
    """Consecutive blocks of one width.

    Args:
        first (int): First block.
        depth (int): Number of blocks.
        embed_dims (int): Width C of a token.
        num_heads (int): Attention heads.
        windows (tuple[int | None, ...]): Side of the attention window of each block in patches; None attends to all.
    """

    first: int
    depth: int
    embed_dims: int
    num_heads: int
    windows: tuple[int | None, ...]


@dataclass(frozen=True)
class HostInfo:
    """Facts about a host that a reducer may read, given once when the model is built.

    Args:
        depth (int): Number of blocks.
        embed_dims (int): Width C of a token in the first stage.
        num_heads (int): Attention heads in the first stage.
        out_indices (tuple[int, ...]): Blocks after which the host gives out features.
        num_prefix (int): Class and register tokens that methods see.
        position (str): ``absolute`` if positions are added to the tokens, ``relative`` if they are a bias of the
            attention.
        ragged (bool): Whether blocks run on packed images of unequal token counts. Defaults to True.
        any_size (bool): Whether the stem takes pictures of any size. Defaults to True.
        ragged_stem (bool): Whether images start with unequal numbers of tokens. Defaults to False.
        reduction_window (int, optional): Side in patches of the windows inside which methods reduce; None if they
            reduce over whole pictures.
        stages (tuple[Stage, ...]): Stages of a pyramid; one stage by default.
        host (TokenHost, optional): The backbone, for methods that copy parts of it.
    """

    depth: int
    embed_dims: int
    num_heads: int
    out_indices: tuple[int, ...]
    num_prefix: int = 0
    position: str = 'absolute'
    ragged: bool = True
    any_size: bool = True
    ragged_stem: bool = False
    reduction_window: int | None = None
    stages: tuple[Stage, ...] = ()
    host: Any = None  # methods read what only some backbones have

    @property
    def is_plain(self) -> bool:
        """Whether there is a token for each patch, and all blocks have one width and attend to all tokens."""
        return len(self.stages) == 1 and not any(self.stages[0].windows) and not self.ragged_stem

    def stage_of(self, block: int) -> Stage:
        """Returns the stage that a block belongs to."""
        return next(stage for stage in reversed(self.stages) if stage.first <= block)

    def __post_init__(self):
        if not self.stages:
            stage = Stage(0, self.depth, self.embed_dims, self.num_heads, (None,) * self.depth)
            object.__setattr__(self, 'stages', (stage,))


@dataclass
class Cost:
    """Cost of a backbone with a method, for one image; see :meth:`Reducer.closed_form`.

    Args:
        attention (Sequence[int | tuple[int, ...]]): Patch tokens that enter the attention of each block; several
            numbers if the block runs on several sequences.
        mlp (Sequence[int | tuple[int, ...]]): The same for the MLP of each block.
        reduce (int): Multiply-adds of the method itself. Defaults to 0.
        restore (int): Multiply-adds of restoring the full grid once, after the last block. Defaults to 0.
        stem (int): Multiply-adds in the stem beyond that of the dense model. Defaults to 0.
    """

    attention: Sequence[int | tuple[int, ...]]
    mlp: Sequence[int | tuple[int, ...]]
    reduce: int = 0
    restore: int = 0
    stem: int = 0


class Reducer(nn.Module):
    """Base class of token reduction methods.

    A host calls :meth:`start` to get its tokens. Then it calls for each block i ``before(state, i)``,
    ``between(state, i)`` after the attention and before the MLP, and ``after(state, i)``. Each may change ``state``;
    none may keep anything of a pass on the module.

    A registered method also has :attr:`paper`, :attr:`identity_example`, :attr:`examples` and :meth:`closed_form`;
    the contract tests need them.
    """

    #: Whether the number of tokens depends on the picture. Static methods must compile and export, and run in CUDA
    #: graphs.
    dynamic: bool = False
    #: Whether the method has parameters or losses of its own.
    trainable: bool = False
    #: Whether the method reads ``state.keys`` in ``between`` or ``after``.
    needs_keys: bool = False
    #: Whether tokens that a block left out may come back in a later one.
    reactivates: bool = False
    #: Whether the method takes images of unequal token counts, with which some backbones start.
    takes_ragged: bool = False
    #: The paper, as 'Title, venue year, arXiv id'.
    paper: ClassVar[str] = ''
    #: Arguments that reduce nothing, and arguments that reduce ever more, for a model of four blocks.
    identity_example: ClassVar[dict] = {}
    examples: ClassVar[Sequence[dict]] = ()
    #: Arguments with which a learned method reduces something even at random weights.
    lively_example: ClassVar[dict] = {}
    #: Name of the argument that gets the configs of the model's auxiliary heads if the config leaves it out.
    auxiliary: ClassVar[str | None] = None

    #: If set: why the output of the model's heads needs :meth:`finish`.
    finishes: str = ''
    #: Whether outputs are maps on the reduced raster, and :meth:`finish` restores the output of the head.
    gives_reduced_maps: bool = False
    #: If set: why a picture gives other tokens from one training pass to the next, though no weight has changed.
    varies: str = ''
    #: Part of the training that is done, 0 to 1; see :meth:`set_progress`.
    progress: float = 1.0
    #: Training iterations done.
    iteration: int = 0

    # ------------------------------------------------------------------ checks
    def refuses(self, host: HostInfo) -> str:
        """Returns why the method cannot run on a backbone, and the remedy; empty if it can."""
        if self.dynamic and not host.ragged:
            windowed = any(any(stage.windows) for stage in host.stages)
            reason = 'windows' if windowed else 'relative position bias' if host.position == 'relative' else 'attention'
            return (
                f'packs images of unequal token counts, which the {reason} of this backbone cannot follow; use a '
                'static method such as mmtoken.Expedit, or a backbone with absolute positions'
            )
        if host.ragged_stem and not self.takes_ragged:
            return 'needs equally many tokens in each image, and this backbone starts with unequal ones; leave it out'
        if host.reduction_window and (self.dynamic or self.trainable or type(self).start is not Reducer.start):
            return (
                'looks at whole pictures, and this backbone reduces inside windows; use a method such as '
                "mmtoken.Expedit or mmtoken.ToMe, or a plain backbone with reduce_within='grid'"
            )
        return ''

    def bind(self, host: HostInfo) -> None:
        """Checks the arguments against the host, when the model is built.

        Raises:
            ValueError: In one line that names the argument and the remedy.
        """

    def bind_model(self, model: nn.Module) -> dict[str, str]:
        """Checks the arguments against the model around the host, when the model is built.

        Args:
            model (nn.Module): Normally an mmseg segmentor, with its ``decode_head``.

        Returns:
            dict[str, str]: For parameters that this reducer takes over: prefixes of their names in the stock model's
            checkpoint → prefixes of their names in this reducer.

        Raises:
            ValueError: In one line that names the argument and the remedy.
        """
        return {}

    def search_space(self, host: HostInfo) -> dict[str, tuple | list]:
        """Returns the arguments that trade accuracy for speed on a host; none by default.

        Returns:
            dict: The values of each argument. ``(low, high)``, two ints or two floats, is a range with both ends. A
            list is a choice; ``[None]`` clears an argument that excludes another. A tuple of these stands for an
            argument that is a list, item by item. Any combination, with the other arguments as they are, must pass the
            constructor and :meth:`bind`.
        """
        return {}

    def closed_form(self, host: HostInfo, grid: tuple[int, int], state: TokenState | None = None) -> Cost:
        """Returns the cost of the method by its formulas, exactly; the tests compare the counter with it.

        Args:
            host (HostInfo): Facts about the backbone, whose only output comes after its last block.
            grid (tuple[int, int]): Patch grid of the picture.
            state (TokenState, optional): State after a pass of one picture, from which dynamic methods read the counts.
        """
        raise NotImplementedError(f'{type(self).__name__} has no closed_form(), which tells what it costs.')

    def kept(self, state: TokenState | None) -> Any:
        """Returns what the method kept of a pass in ``state.aux``.

        Raises:
            ValueError: If there was no pass.
        """
        if state is None or self not in state.aux:
            raise ValueError(f'{type(self).__name__} needs the state after a pass of its own.')
        return state.aux[self]

    def copies(self) -> dict[str, str]:
        """Returns which parameters start as copies of the backbone's, as prefixes of names: own → the backbone's.

        They are copied when a checkpoint lacks them.
        """
        return {}

    # ------------------------------------------------------------------ the pass
    def prepare(self, host: TokenHost, images: Tensor, targets: list) -> None:
        """Is called before a training pass with its labels, for methods that follow them at first.

        Args:
            host (TokenHost): The backbone.
            images (Tensor): ``(B, 3, H, W)``.
            targets (list): Data samples with the ground truth of each picture.
        """

    def start(self, host: TokenHost, images: Tensor, padding: Tensor | None) -> TokenState:
        """Makes the first tokens of a batch: the full grid by default.

        Args:
            host (TokenHost): The backbone. ``host.embed(images, padding)`` makes the full grid, also of resized
                pictures; ``host.run_blocks(state, blocks)`` runs blocks on tokens.
            images (Tensor): ``(B, 3, H, W)``.
            padding (Tensor, optional): Patches that hold only padding ``(B, grid_h, grid_w)``, bool.
        """
        return host.embed(images, padding)

    def before(self, state: TokenState, i: int) -> None:
        """Is called before block ``i``."""

    def between(self, state: TokenState, i: int) -> None:
        """Is called after the attention of block ``i`` and before its MLP."""

    def after(self, state: TokenState, i: int) -> None:
        """Is called after block ``i``, before its features are made."""

    # ------------------------------------------------------------------ around the pass
    def finish(self, state: TokenState, head: nn.Module, feats: tuple, name: str) -> Any:
        """Runs a head of the model and finishes its output; called for every head if :attr:`finishes` is set.

        Args:
            state (TokenState): The state after the pass that made the features.
            head (nn.Module): An mmseg decode head; its ``forward`` takes ``feats``.
            feats (tuple[Tensor]): Feature maps.
            name (str): ``decode`` for the model's decode head, ``aux…`` for the others.

        Returns:
            Any: What the head's ``predict_by_feat`` and ``loss_by_feat`` take: mostly logits ``(B, classes, H, W)`` on
            the full grid or a multiple of it.

        Raises:
            ValueError: If the method cannot finish the output of this head.
        """
        return head.forward(feats)

    def losses(self, state: TokenState, targets: list | None = None) -> dict[str, Tensor]:
        """Returns the losses of the method by name; none by default."""
        return {}

    def maps(self, state: TokenState) -> dict[str, Tensor]:
        """Returns maps ``(B, C, h, w)`` that the method decided by, to look at, by name; none by default."""
        return {}

    def set_progress(self, progress: float, iteration: int) -> None:
        """Stores how far training is; the model calls this before each training step.

        Args:
            progress (float): Part of all iterations that is done, 0 to 1.
            iteration (int): Iterations done.
        """
        self.progress, self.iteration = progress, iteration

    def switch_to_deploy(self) -> None:
        """Drops parts that only training needs; the tools and the export call it."""


class ReducerSequence(Reducer):
    """Several reducers in one backbone, called in order.

    Args:
        reducers (Sequence[Reducer]): At least one.

    Raises:
        ValueError: If there is none.
    """

    def __init__(self, reducers: Sequence[Reducer]):
        super().__init__()
        if not reducers:
            raise ValueError('reducer=[] is empty; leave it out, or name at least one method.')
        if any(reducer is None for reducer in reducers):
            raise ValueError('reducer=[…] holds None; leave it out, each entry is the config of a method.')
        self.reducers = cast(Sequence[Reducer], nn.ModuleList(reducers))
        self.dynamic = any(r.dynamic for r in reducers)
        self.trainable = any(r.trainable for r in reducers)
        self.needs_keys = any(r.needs_keys for r in reducers)
        self.finishes = next((r.finishes for r in reducers if r.finishes), '')
        self.varies = next((r.varies for r in reducers if r.varies), '')
        self.gives_reduced_maps = any(r.gives_reduced_maps for r in reducers)

    def refuses(self, host: HostInfo) -> str:
        reasons = [reducer.refuses(host) for reducer in self.reducers]
        return next(filter(None, reasons), '')

    def bind(self, host: HostInfo) -> None:
        for reducer in self.reducers:
            reducer.bind(host)
        starters = [i for i, reducer in enumerate(self.reducers) if type(reducer).start is not Reducer.start]
        if starters not in ([], [0]):
            name = type(self.reducers[starters[-1]]).__name__
            raise ValueError(f'reducer=[…]: {name} makes the tokens of the picture; put it first, and only one such.')
        if any(reducer.gives_reduced_maps for reducer in list(self.reducers)[:-1]):
            raise ValueError(
                "reducer.restore='late' must be the last of several reducers: the head runs on its raster."
            )
        if sum(bool(reducer.finishes) for reducer in self.reducers) > 1:
            raise ValueError('reducer=[…]: two of the methods finish the output of the head; leave one of them out.')

    def bind_model(self, model: nn.Module) -> dict[str, str]:
        moved = {}
        for i, reducer in enumerate(self.reducers):
            moved.update({old: f'reducers.{i}.{new}' for old, new in reducer.bind_model(model).items()})
        return moved

    def copies(self) -> dict[str, str]:
        return {
            f'reducers.{i}.{new}': old
            for i, reducer in enumerate(self.reducers)
            for new, old in reducer.copies().items()
        }

    def prepare(self, host: TokenHost, images: Tensor, targets: list) -> None:
        for reducer in self.reducers:
            reducer.prepare(host, images, targets)

    def start(self, host: TokenHost, images: Tensor, padding: Tensor | None) -> TokenState:
        return self.reducers[0].start(host, images, padding)

    def before(self, state: TokenState, i: int) -> None:
        for reducer in self.reducers:
            reducer.before(state, i)

    def between(self, state: TokenState, i: int) -> None:
        for reducer in self.reducers:
            reducer.between(state, i)

    def after(self, state: TokenState, i: int) -> None:
        for reducer in self.reducers:
            reducer.after(state, i)

    def finish(self, state: TokenState, head: nn.Module, feats: tuple, name: str) -> Any:
        for reducer in self.reducers:
            if reducer.finishes:
                return reducer.finish(state, head, feats, name)
        return super().finish(state, head, feats, name)

    def losses(self, state: TokenState, targets: list | None = None) -> dict[str, Tensor]:
        return {k: v for reducer in self.reducers for k, v in reducer.losses(state, targets).items()}

    def maps(self, state: TokenState) -> dict[str, Tensor]:
        return {k: v for reducer in self.reducers for k, v in reducer.maps(state).items()}

    def set_progress(self, progress: float, iteration: int) -> None:
        for reducer in self.reducers:
            reducer.set_progress(progress, iteration)

    def switch_to_deploy(self) -> None:
        for reducer in self.reducers:
            reducer.switch_to_deploy()
