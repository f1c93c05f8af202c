"""Reducer: the one interface between a token reduction method and a host."""

from dataclasses import dataclass
from typing import ClassVar, Optional, Sequence

from torch import Tensor, nn

from .state import TokenState


@dataclass(frozen=True)
class HostInfo:
    """What a reducer may know of its host, told once when the model is built.

    Args:
        depth (int): Number of blocks.
        embed_dims (int): Width C of a token.
        num_heads (int): Attention heads.
        out_indices (tuple[int, ...]): Blocks after which the host gives out features.
        position (str): ``absolute`` when positions are in the tokens, ``relative`` when attention reads them.
    """

    depth: int
    embed_dims: int
    num_heads: int
    out_indices: tuple[int, ...]
    position: str = 'absolute'


class Reducer(nn.Module):
    """Base class of token reduction methods.

    A host calls, for each block i, ``before(state, i)``, then ``between(state, i)`` after the attention and before the
    MLP of the block, then ``after(state, i)``. Each may change ``state``; none keeps anything of it on the module.
    """

    #: Whether the number of tokens depends on the picture. Static methods promise compile, CUDA graphs and export.
    dynamic: ClassVar[bool] = False
    #: Whether the method has parameters or losses of its own.
    trainable: ClassVar[bool] = False
    #: Whether the method reads ``state.keys`` in ``between`` or ``after``.
    needs_keys: ClassVar[bool] = False
    #: The paper, as 'Title, venue year, arXiv id'.
    paper: ClassVar[str] = ''
    #: Arguments that reduce nothing, and arguments that reduce ever more, for a model of four blocks; the contract
    #: tests and the documentation run over them.
    identity_example: ClassVar[dict] = {}
    examples: ClassVar[Sequence[dict]] = ()

    #: Whether features leave the host on the reduced raster and are restored after the head.
    late: bool = False

    def bind(self, host: HostInfo) -> None:
        """Checks the arguments against the host, before any work starts.

        Raises:
            ValueError: In one line that names the argument and what would be right.
        """

    def before(self, state: TokenState, i: int) -> None:
        """Runs before block ``i``."""

    def between(self, state: TokenState, i: int) -> None:
        """Runs after the attention of block ``i`` and before its MLP."""

    def after(self, state: TokenState, i: int) -> None:
        """Runs after block ``i``, before its features are given out."""

    def losses(self, state: TokenState, targets: Optional[list] = None) -> dict[str, Tensor]:
        """Losses of a trainable method, by name; empty for the others."""
        return {}


class ReducerSequence(Reducer):
    """Several reducers in one backbone, called in order; their trails stack.

    Args:
        reducers (Sequence[Reducer]): At least one.
    """

    def __init__(self, reducers: Sequence[Reducer]):
        super().__init__()
        self.reducers = nn.ModuleList(reducers)
        self.dynamic = any(r.dynamic for r in reducers)
        self.trainable = any(r.trainable for r in reducers)
        self.needs_keys = any(r.needs_keys for r in reducers)
        self.late = any(r.late for r in reducers)

    def bind(self, host: HostInfo) -> None:
        for reducer in self.reducers:
            reducer.bind(host)

    def before(self, state: TokenState, i: int) -> None:
        for reducer in self.reducers:
            reducer.before(state, i)

    def between(self, state: TokenState, i: int) -> None:
        for reducer in self.reducers:
            reducer.between(state, i)

    def after(self, state: TokenState, i: int) -> None:
        for reducer in self.reducers:
            reducer.after(state, i)

    def losses(self, state: TokenState, targets: Optional[list] = None) -> dict[str, Tensor]:
        return {k: v for reducer in self.reducers for k, v in reducer.losses(state, targets).items()}
