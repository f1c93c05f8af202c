"""Multiply-adds of a model, counted where they are executed.

Convention: **one multiply-add is one MAC**; :data:`~mmtoken.analysis.operators.CONVENTION` says what counts.
:attr:`MacReport.uncounted` names what was seen and does not, and :attr:`MacReport.missed` what of it ought to.

Torch's ``FlopCounterMode`` counts, with formulas for the kernels that it does not know. It sees each kernel as it is
called, so the token counts of a dynamic method are those of the picture at hand, and a model on the ``meta`` device is
counted in no time and no memory. Three things are added here, which it has not: work is put down to modules that a
host calls in halves, kernels without a formula are named, and operators outside of torch's dispatcher are counted. What
runs counts: the channels that carry a key bias on CUDA are work too.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from mmtoken.core.layout import Layout
from mmtoken.core.reducer import Reducer
from mmtoken.core.state import TokenState

from .operators import FORMULAS, FREE, compiled_operators, kind_of, looks_like_a_product, name_of

#: Methods that do work beside ``forward``: those of a reducer, a host's that take a block, a decode head's.
_METHODS = ('start', 'before', 'between', 'after', 'finish', 'losses', 'attend', 'mlp', 'predict')


class Seen(NamedTuple):
    """How often an operator ran, and how many elements its results had in all."""

    calls: int
    elements: int


@dataclass
class MacReport:
    """What :func:`count_macs` found.

    Args:
        total (int): MACs of the whole call.
        by_operator (dict[str, int]): MACs by kind: ``linear`` (any 2-D product), ``matmul``, ``conv``, ``attention``,
            ``cdist``.
        by_module (dict[str, int]): MACs by module name, each including its children; '' is the whole. Undoing
            reductions has a name of its own beside the reducer's, ``restore`` for ``reducer``.
        uncounted (dict[str, Seen]): Operators that compute something and have no formula.
        tokens (list[float]): Patch tokens that entered the MLP of each block, mean over the images (or crops); empty
            if the backbone is no host of mmtoken.
        once (int): MACs that a first call had more and later ones did not repeat; they are not part of ``total``.
    """

    total: int = 0
    by_operator: dict[str, int] = field(default_factory=dict)
    by_module: dict[str, int] = field(default_factory=dict)
    uncounted: dict[str, Seen] = field(default_factory=dict)
    tokens: list[float] = field(default_factory=list)
    once: int = 0

    @property
    def missed(self) -> dict[str, Seen]:
        """Those of ``uncounted`` that multiply matrices or attend, by their names: the total is too low by them."""
        return {name: seen for name, seen in self.uncounted.items() if looks_like_a_product(name)}


class _Scopes(nullcontext):
    """The modules that are running: what ``FlopCounterMode`` asks its ``mod_tracker`` for.

    Torch's own tracker sees calls of modules only; hosts call halves of blocks and reducers' methods beside them.
    """

    def __init__(self):
        super().__init__()
        self.names: list[str | None] = ['']

    @contextmanager
    def running(self, name: str | None) -> Iterator[None]:
        """Work inside is that of a module; None: of a compiled operator, which is booked as a whole."""
        self.names.append(name)
        try:
            yield
        finally:
            self.names.pop()

    @property
    def opaque(self) -> bool:
        """Whether a compiled operator runs, whatever that is made of on this machine."""
        return None in self.names

    @property
    def parents(self) -> set[str]:
        """Names of the running module and of those that hold it, ``{'', 'a', 'a.b'}``; '' is the whole."""
        if self.opaque:
            return set()
        parts = self.names[-1].split('.') if self.names[-1] else []
        return {'.'.join(parts[:n]) for n in range(len(parts) + 1)}


class _Kernels(TorchDispatchMode):
    """Counts what torch's counter does not know; below it, where composite operators have been opened by then.

    Formulas are found by name: some operators are registered only when a model first needs them.
    """

    def __init__(self, flops: FlopCounterMode):
        super().__init__()
        self.flops, self.uncounted = flops, {}
        for name in FORMULAS:  # ours come first: torch counts sparse matrices as dense ones
            flops.flop_registry.pop(getattr(torch.ops.aten, name, None), None)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket not in self.flops.flop_registry and not func.is_view:
            self.book(name_of(func.overloadpacket), args, out)
        return out

    def book(self, name: str, args: tuple, out: Any) -> None:
        """Books one call of a kernel by its formula, or notes it; ``out`` is None where it writes into arguments."""
        scopes = self.flops.mod_tracker
        formula = FORMULAS.get(name) or FORMULAS.get(name.removesuffix('_'))
        if scopes.opaque or name in FREE:
            return
        if formula:
            for scope in scopes.parents:
                self.flops.flop_counts[scope][name] += 2 * formula(args, out)
            return
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, Tensor)]
        written = sum(sizes) or max((x.numel() for x in args if isinstance(x, Tensor)), default=0)
        calls, elements = self.uncounted.get(name, (0, 0))
        self.uncounted[name] = Seen(calls + 1, elements + written)

    def compiled(self, original: Callable, name: str) -> Callable:
        """Returns a function that books itself as the kernel ``name``."""

        def kernel(*args, **kwargs):
            with self.flops.mod_tracker.running(None):
                out = original(*args, **kwargs)
            self.book(name, args, out)
            return out

        return kernel


class _HigherOrder(TorchDispatchMode):
    """Runs operators of higher order, which torch's counter stops at, above it."""

    supports_higher_order_operators = True

    def __init__(self, kernels: _Kernels):
        super().__init__()
        self.kernels = kernels

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if isinstance(func, torch._ops.OpOverload):
            return func(*args, **(kwargs or {}))
        with _disable_current_modes():
            out = func(*args, **(kwargs or {}))
        self.kernels.book(name_of(func), args, out)
        return out


@contextmanager
def _replaced(owner: Any, name: str, new: Callable) -> Iterator[None]:
    """Puts ``new`` in the place of ``owner.name``, and what was there back afterwards."""
    own = vars(owner).get(name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        delattr(owner, name) if own is None else setattr(owner, name, own)


def _noting_tokens(depth: int, tokens: list[list[float]]) -> Callable[[TokenState, int], None]:
    """Keeps the patch tokens by block of each pass of a host."""

    def see(state: TokenState, i: int) -> None:
        if i == depth:
            images = len(state.x) if state.packing is None else len(state.packing)
            tokens.append([count / images - state.num_prefix for count in state.counts])

    return see


def restore_name(model: nn.Module) -> str | None:
    """Name that undoing reductions goes by in a report: ``backbone.restore``; None if the model has no reducer."""
    name = next((name for name, module in model.named_modules() if isinstance(module, Reducer)), None)
    return None if name is None else '.'.join([*name.split('.')[:-1], 'restore'])


@contextmanager
def _attributed(model: nn.Module, kernels: _Kernels, tokens: list) -> Iterator[None]:
    """Puts work down to modules: by their ``forward``, whoever calls it, and what reducers and hosts do beside it."""
    names = {module: name for name, module in model.named_modules()}
    running = kernels.flops.mod_tracker.running

    def scoped(original: Callable, name: str) -> Callable:
        @functools.wraps(original)
        def call(*args, **kwargs):
            # a host runs its blocks itself and names the block first
            block = args[0] if args and isinstance(args[0], nn.Module) else None
            with running(names.get(block, name)):
                return original(*args, **kwargs)

        return call

    with ExitStack() as stack:

        def replace(owner: Any, method: str, new: Callable) -> None:
            stack.enter_context(_replaced(owner, method, new))

        for module, name in names.items():
            for method in ('forward', *_METHODS):
                if hasattr(type(module), method):
                    replace(module, method, scoped(getattr(module, method), name))
            if hasattr(module, 'watching'):
                stack.enter_context(module.watching(_noting_tokens(len(module.blocks), tokens)))
        reducer = next((module for module in names if isinstance(module, Reducer)), None)
        if reducer is not None:  # its work, whoever asks for it
            for method in ('restore', 'dense'):
                replace(TokenState, method, scoped(getattr(TokenState, method), restore_name(model)))
            replace(Layout, '_given', scoped(Layout._given, names[reducer]))  # centres and sizes, on their first use
        for owner, function, kernel in compiled_operators():
            replace(owner, function, kernels.compiled(getattr(owner, function), kernel))
        yield


@contextmanager
def _evaluating(model: nn.Module, training: bool) -> Iterator[None]:
    """Sets evaluation mode module by module, since upstream's ``eval()`` may do more than that and return None.

    Buffers that training moves, such as the statistics of batch norms, are put back.
    """
    modes = [(m, m.training) for m in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()] if training else []
    # nn.MultiheadAttention's own fast path is one opaque kernel
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for module, mode in modes:
        module.training = mode and training
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for module, mode in modes:
            module.training = mode
        for buffer, before in buffers:
            buffer.copy_(before)


def count_macs(
    model: nn.Module | Callable, inputs: Any, call: Callable | None = None, training: bool = False
) -> MacReport:
    """Counts the MACs of one call, without gradients.

    Args:
        model (nn.Module | Callable): What to count. Modules get their share by name; a plain function only the total.
        inputs (Tensor | tuple): What it is called with.
        call (Callable, optional): Called with ``inputs`` instead of ``model``, e.g. ``model.extract_feat``; its work is
            still put down to the modules of ``model``.
        training (bool): Leave modules that train in that mode; by default all are evaluated. Defaults to False.

    Returns:
        MacReport: See there.
    """
    modules = model if isinstance(model, nn.Module) else nn.Module()
    flops, tokens = FlopCounterMode(display=False), []
    flops.mod_tracker = _Scopes()
    kernels = _Kernels(flops)
    prepared = _evaluating(modules, training), _attributed(modules, kernels, tokens), torch.no_grad()
    with ExitStack() as stack:
        for context in (*prepared, kernels, flops, _HigherOrder(kernels)):
            stack.enter_context(context)
        (call or model)(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    macs = {scope: sum(counts.values()) // 2 for scope, counts in flops.flop_counts.items()}
    kinds: Counter = Counter()
    for kernel, count in flops.flop_counts[''].items():
        kinds[kind_of(kernel if isinstance(kernel, str) else name_of(kernel))] += count // 2
    names = [name for name, _ in modules.named_modules()] + [restore_name(modules) or '', '']
    return MacReport(
        total=macs.get('', 0),
        by_operator=dict(kinds),
        by_module={name: macs.get(name, 0) for name in names},
        uncounted=kernels.uncounted,
        tokens=[sum(block) / len(tokens) for block in zip(*tokens)],
    )
