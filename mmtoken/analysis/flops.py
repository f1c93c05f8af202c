"""Multiply-adds of a model, counted where they are executed.

Convention: **one multiply-add is one MAC**. Counted are matrix products, convolutions, both products of attention
(``Q·Kᵀ`` and ``A·V``, whatever kernel runs them) and pairwise distances. Nothing else is: normalisation, softmax,
activations, other element-wise work, pooling, interpolation, gather, scatter and sorting; :attr:`MacReport.uncounted`
names what of it was seen.

The counters that are in common use trace the model and know operators by name: they count fused attention as zero, they
lose whatever does not reach the output, and they need an input on a real device. This one sees each kernel as it is
called (``TorchDispatchMode``), so the token counts of a dynamic method are those of the picture at hand, and a model on
the ``meta`` device is counted in no time and no memory. It counts what runs: the padding of a ragged batch, and the
channels that carry a key bias on CUDA, are work too; a batch of one picture has no padding.
"""

import functools
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any, Callable, Iterator, Optional, Sequence, Union

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmtoken.core.reducer import Reducer
from mmtoken.core.state import TokenState

CONVENTION = ('1 multiply-add = 1 MAC. Counted: matrix products, convolutions, QK^T and AV of attention, pairwise '
              'distances. Not counted: normalisation, softmax, activations, element-wise, pooling, interpolation, '
              'gather, scatter, sorting.')

#: Methods that do work beside ``forward``: those of a reducer, a host's that take a block, a decode head's.
_METHODS = ('before', 'between', 'after', 'attend', 'mlp', 'predict')


@dataclass
class MacReport:
    """What :func:`count_macs` found.

    Args:
        total (int): MACs of the whole call.
        by_operator (dict[str, int]): MACs by kind: ``linear`` (any 2-D product), ``matmul``, ``conv``, ``attention``,
            ``cdist``.
        by_module (dict[str, int]): MACs by module name, each including its children; '' is the whole.
        uncounted (dict[str, int]): Calls by operator that computes something and has no formula here.
    """

    total: int = 0
    by_operator: dict[str, int] = field(default_factory=dict)
    by_module: dict[str, int] = field(default_factory=dict)
    uncounted: dict[str, int] = field(default_factory=dict)


def _mm(args: tuple, out: Any) -> int:
    """``(L, K) @ (K, M)`` and the batched ``(B, L, K) @ (B, K, M)``; one dimension less for matrix times vector."""
    return args[0].numel() * (args[1].shape[-1] if args[1].dim() > 1 else 1)


def _add_mm(args: tuple, out: Any) -> int:
    """The same after a first argument that is added; biases are no multiply-adds."""
    return _mm(args[1:], out)


def _convolution(args: tuple, out: Tensor) -> int:
    """Each weight meets each output position, or each input position when transposed; groups are in the weight."""
    positions = args[0] if args[6] else out
    return positions.shape[0] * args[1].numel() * prod(positions.shape[2:])


def _attention(args: tuple, out: Any) -> int:
    """q ``(…, h, L, d)``, k ``(…, S, d)``, v ``(…, S, dv)``: ``L·S·(d + dv)`` a head; masks spare nothing."""
    q, k, v = args[:3]
    return prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _varlen_attention(args: tuple, out: Any) -> int:
    """Packed q ``(ΣL, h, d)`` with the images' ends ``(B + 1,)``: each image attends to itself only."""
    q, _, v, ends_q, ends_k = args[:5]
    pairs = int((ends_q.diff().long() * (ends_q if ends_k is None else ends_k).diff().long()).sum())
    return pairs * q.shape[1] * (q.shape[2] + v.shape[2])


def _cdist(args: tuple, out: Tensor) -> int:
    """Distances between ``(…, N, C)`` and ``(…, M, C)``: one multiply-add for each pair and channel."""
    return out.numel() * args[0].shape[-1]


#: Kernel name (of the namespace aten unless said otherwise) -> (kind, formula).
_FORMULAS: dict[str, tuple[str, Callable[[tuple, Any], int]]] = {
    'mm': ('linear', _mm),
    'mv': ('linear', _mm),
    'dot': ('linear', _mm),
    'vdot': ('linear', _mm),
    'addmm': ('linear', _add_mm),
    'addmv': ('linear', _add_mm),
    '_addmm_activation': ('linear', _add_mm),
    'bmm': ('matmul', _mm),
    'baddbmm': ('matmul', _add_mm),
    'addbmm': ('matmul', _add_mm),
    'convolution': ('conv', _convolution),
    '_convolution': ('conv', _convolution),
    'convolution_overrideable': ('conv', _convolution),
    '_scaled_dot_product_flash_attention': ('attention', _attention),
    '_scaled_dot_product_flash_attention_for_cpu': ('attention', _attention),
    '_scaled_dot_product_efficient_attention': ('attention', _attention),
    '_scaled_dot_product_cudnn_attention': ('attention', _attention),
    '_scaled_dot_product_fused_attention_overrideable': ('attention', _attention),
    'torch_attn::_varlen_attn': ('attention', _varlen_attention),
    '_cdist_forward': ('cdist', _cdist),
    '_euclidean_dist': ('cdist', _cdist),
}

#: Kernels that move, make or look at data and compute nothing; views are told by their schema.
_FREE = frozenset(
    ('_to_copy clone copy copy_ contiguous empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like '
     'new_zeros ones ones_like new_ones full full_like new_full fill_ zero_ arange scalar_tensor lift_fresh cat stack '
     'lift_fresh_copy constant_pad_nd repeat _local_scalar_dense _unsafe_view _reshape_alias detach alias eye '
     'linspace').split())


class _Counter(TorchDispatchMode):
    """Adds up MACs by kind and by the module that is running."""

    def __init__(self):
        super().__init__()
        self.scopes = ['']
        self.by_operator: Counter = Counter()
        self.by_module: Counter = Counter()
        self.uncounted: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket._qualified_op_name.removeprefix('aten::')
        if name not in _FORMULAS:
            with self:  # composite operators come whole under inference_mode; their parts are what is known
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if name in _FORMULAS:
            kind, formula = _FORMULAS[name]
            macs = formula(args, out)
            self.by_operator[kind] += macs
            for scope in _ancestors(self.scopes[-1]):
                self.by_module[scope] += macs
        elif name not in _FREE and not func.is_view:
            self.uncounted[name] += 1
        return out


def _ancestors(name: str) -> list[str]:
    """``'a.b'`` -> ``['', 'a', 'a.b']``."""
    parts = name.split('.') if name else []
    return ['.'.join(parts[:n]) for n in range(len(parts) + 1)]


@contextmanager
def _patched(owner: Any, method: str, scope: Callable[..., str], scopes: list[str]) -> Iterator[None]:
    """Makes ``scope(*args)`` the running module while ``owner.method(*args)`` runs."""
    own, original = vars(owner).get(method), getattr(owner, method)

    @functools.wraps(original)
    def scoped(*args, **kwargs):
        scopes.append(scope(*args))
        try:
            return original(*args, **kwargs)
        finally:
            scopes.pop()

    setattr(owner, method, scoped)
    try:
        yield
    finally:
        delattr(owner, method) if own is None else setattr(owner, method, own)


@contextmanager
def _attributed(model: nn.Module, scopes: list[str]) -> Iterator[None]:
    """Puts work down to modules: by their ``forward``, whoever calls it, and what reducers and hosts do beside it."""
    names = {module: name for name, module in model.named_modules()}

    def scope_of(module: nn.Module) -> Callable[..., str]:
        # a host runs its blocks itself and names the block first
        return lambda *args: names[args[0] if args and isinstance(args[0], nn.Module) and args[0] in names else module]

    with ExitStack() as stack:
        for module in names:
            for method in ('forward', *_METHODS):
                if hasattr(type(module), method):
                    stack.enter_context(_patched(module, method, scope_of(module), scopes))
        reducer = next((module for module in names if isinstance(module, Reducer)), None)
        if reducer is not None:  # undoing a reduction is the reducer's work, though the host asks for it
            for method in ('restore', 'dense'):
                stack.enter_context(_patched(TokenState, method, scope_of(reducer), scopes))
        yield


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, module by module: upstream's ``eval()`` may do more than that, and return None."""
    modes = [(m, m.training) for m in model.modules()]
    # nn.MultiheadAttention's own fast path is one opaque kernel
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for module, mode in modes:
            module.training = mode


def count_macs(model: Union[nn.Module, Callable], inputs: Any, call: Optional[Callable] = None) -> MacReport:
    """Counts the MACs of one call, in evaluation mode and without gradients.

    Args:
        model (nn.Module | Callable): What to count. Modules get their share by name; a plain function only the total.
        inputs (Tensor | tuple): What it is called with.
        call (Callable, optional): Called with ``inputs`` instead of ``model``, e.g. ``model.extract_feat``; its work is
            still put down to the modules of ``model``.

    Returns:
        MacReport: See there.
    """
    modules = model if isinstance(model, nn.Module) else nn.Module()
    counter = _Counter()
    with _evaluating(modules), _attributed(modules, counter.scopes), torch.no_grad(), counter:
        (call or model)(*(inputs if isinstance(inputs, tuple) else (inputs, )))
    by_module = {name: counter.by_module[name] for name, _ in modules.named_modules()}
    by_module[''] = counter.by_module['']
    return MacReport(counter.by_module[''], dict(counter.by_operator), by_module, dict(counter.uncounted))


def inference_path(model: nn.Module) -> Callable[[Tensor], Any]:
    """What a model does to a batch of normalised images ``(B, 3, H, W)`` at test time.

    A segmentor: backbone, neck, decode head, and the resize of its class maps to the image, which has no MACs;
    auxiliary heads do not run. A detector: its feature extractor, backbone and neck. Any other module: itself.
    """
    if not hasattr(model, 'encode_decode'):
        return getattr(model, 'extract_feat', model)

    def segment(images: Tensor) -> Tensor:
        size = tuple(images.shape[2:])
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])
        return model.encode_decode(images, [meta] * len(images))

    return segment


def segmentor_macs(model: nn.Module, images: Union[Tensor, Sequence[int]]) -> MacReport:
    """Counts the MACs of a segmentor on its way at test time, see :func:`inference_path` (also for other models).

    Args:
        model (nn.Module): On any device; on ``meta`` nothing is computed, which is enough for static token counts.
        images (Tensor | Sequence[int]): Normalised images ``(B, 3, H, W)``, or ``(H, W)`` of one blank image.
    """
    if not isinstance(images, Tensor):
        images = torch.zeros(1, 3, *images, device=next(model.parameters()).device)
    return count_macs(model, images, call=inference_path(model))


def part_table(report: MacReport, model: nn.Module) -> list[tuple[str, int]]:
    """MACs by part, in the order of the model: stem, each block and reducer of the backbone, neck, decode head.

    Returns:
        list[tuple[str, int]]: Names and MACs, parts without any left out; the last row, ``rest``, is work outside of
        the named parts, so that they sum up to the total.
    """
    rows = [(name, report.by_module.get(name, 0)) for name in _part_names(model)]
    rows.append(('rest', report.total - sum(macs for _, macs in rows)))
    return [row for row in rows if row[1]]


def _part_names(model: nn.Module, prefix: str = '') -> list[str]:
    names = []
    for name, child in model.named_children():
        if name == 'backbone':
            names += _part_names(child, f'{prefix}backbone.')
        elif isinstance(child, nn.ModuleList):
            names += [f'{prefix}{name}.{i}' for i in range(len(child))]
        else:
            names.append(prefix + name)
    return names
