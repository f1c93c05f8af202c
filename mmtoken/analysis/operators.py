"""What kernels cost in multiply-adds that torch's own counter takes for nothing; see :data:`CONVENTION`.

``torch.utils.flop_counter.FlopCounterMode`` knows dense products, convolutions and the fused attention of CUDA, and
counts a multiply-add as two. :data:`FORMULAS` adds the rest, fused attention on the CPU first of all.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor

CONVENTION = (
    '1 multiply-add = 1 MAC. Counted: matrix products, convolutions, QK^T and AV of attention, pairwise '
    'distances, and what deformable operators sample (4 for a bilinear sample, 1 for its weight). Not '
    'counted: normalisation, softmax, activations, element-wise, pooling, interpolation, gather, scatter, '
    'sorting.'
)


# ------------------------------------------------------------------------------------------------ matrix products
def _size(x: Tensor) -> int:
    """Elements that take part: those stored, if it is sparse."""
    return x.numel() if x.layout == torch.strided else x._nnz()


def _mm(args: tuple, out: Any) -> int:
    """``(L, K) @ (K, M)`` and the batched ``(B, L, K) @ (B, K, M)``; one dimension less for matrix times vector."""
    a, b = args[:2]
    if b.layout != torch.strided:  # each stored element of b meets one column of a
        return a.shape[0] * _size(b)
    return _size(a) * (b.shape[-1] if b.dim() > 1 else 1)


def _add_mm(args: tuple, out: Any) -> int:
    """The same after a first argument that is added; biases are no multiply-adds."""
    return _mm(args[1:], out)


def _packed_mm(args: tuple, out: Tensor) -> int:
    """``(L, K)`` by weights that lie row by row ``(M, K)``, or packed in some order of the kernel's own."""
    return args[0].numel() * out.shape[-1]


def _grouped_mm(args: tuple, out: Tensor) -> int:
    """Groups of rows, or of columns, by a matrix of their own; ``(L, K) @ (G, K, M)`` costs what one matrix would."""
    a, b = args[:2]
    if a.dim() == 3 and b.dim() == 2:  # (G, L, K) @ (K, ΣM)
        return a.shape[1] * a.shape[2] * b.shape[-1]
    return a.numel() * b.shape[-1]


def _trilinear(args: tuple, out: Tensor) -> int:
    """``nn.Bilinear``, ``(N, I) · (O, I, J) · (N, J)`` as torch runs it: one product first, then the other."""
    a, weight, b = (x for x in args[:3])
    rows = max(a.shape[0], b.shape[0])
    return rows * weight.numel() + out.numel() * b.shape[-1]


def _cdist(args: tuple, out: Tensor) -> int:
    """Distances between ``(…, N, C)`` and ``(…, M, C)``: one multiply-add for each pair and channel."""
    return out.numel() * args[0].shape[-1]


# ------------------------------------------------------------------------------------------------------ attention
def _attention(args: tuple, out: Any) -> int:
    """Q ``(…, h, L, d)``, k ``(…, S, d)``, v ``(…, S, dv)``: ``L·S·(d + dv)`` a head; masks spare nothing."""
    q, k, v = args[:3]
    return prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _varlen_attention(args: tuple, out: Any) -> int:
    """Packed q ``(ΣL, h, d)`` with the images' ends ``(B + 1,)``: each image attends to itself only."""
    q, _, v, ends_q, ends_k = args[:5]
    pairs = int((ends_q.diff().long() * (ends_q if ends_k is None else ends_k).diff().long()).sum())
    return pairs * q.shape[1] * (q.shape[2] + v.shape[2])


# ------------------------------------------------------------------------------------------- deformable operators
def _deformable_attention(args: tuple, out: Tensor) -> int:
    """Each query samples ``heads·levels·points`` places of ``C`` channels (arXiv 2010.04159, appendix A.1)."""
    value, weight = args[0], next(x for x in reversed(args) if isinstance(x, Tensor))  # (B, ·, h, C), (B, Q, h, l, p)
    return 5 * weight.numel() * value.shape[-1]


def _sampled_convolution(x: Tensor, weight: Tensor, out: Tensor) -> int:
    """The product of a convolution, and the four corners of each sampled ``(C, kh, kw)`` at each output position."""
    product = out.numel() * weight[0].numel()
    return product + 4 * out.shape[0] * prod(out.shape[2:]) * x.shape[1] * prod(weight.shape[2:])


def _deformable_convolution(args: tuple, out: Any) -> int:
    return _sampled_convolution(args[0], args[1], args[3])


def _modulated_convolution(args: tuple, out: Any) -> int:
    """The mask is one more factor of each sample."""
    x, weight, result = args[0], args[1], args[6]
    return _sampled_convolution(x, weight, result) + result.shape[0] * prod(result.shape[2:]) * x.shape[1] * prod(
        weight.shape[2:]
    )


#: Kernel name (of the namespace aten unless said otherwise) -> MACs from its arguments and its result.
FORMULAS: dict[str, Callable[[tuple, Any], int]] = {
    # torch counts sparse matrices as dense ones
    'mm': _mm,
    'addmm': _add_mm,
    '_sparse_addmm': _add_mm,
    'mv': _mm,
    'addmv': _add_mm,
    'dot': _mm,
    'vdot': _mm,
    'addbmm': _add_mm,
    '_addmm_activation': _add_mm,
    '_int_mm': _mm,
    '_scaled_mm_v2': _mm,
    '_grouped_mm': _grouped_mm,
    '_scaled_grouped_mm': _grouped_mm,
    '_weight_int8pack_mm': _packed_mm,
    '_weight_int4pack_mm': _packed_mm,
    '_weight_int4pack_mm_for_cpu': _packed_mm,
    '_trilinear': _trilinear,
    '_cdist_forward': _cdist,
    '_euclidean_dist': _cdist,
    '_scaled_dot_product_flash_attention_for_cpu': _attention,
    '_scaled_dot_product_fused_attention_overrideable': _attention,
    'higher_order::flex_attention': _attention,
    'torch_attn::_varlen_attn': _varlen_attention,
    'mmcv::ms_deform_attn_forward': _deformable_attention,
    'mmcv::deform_conv_forward': _deformable_convolution,
    'mmcv::modulated_deform_conv_forward': _modulated_convolution,
    'torchvision::deform_conv2d': lambda args, out: _sampled_convolution(args[0], args[1], out),
}

#: Kinds of kernels by what their names hold, the first that fits; others multiply a matrix.
_KINDS = {'attention': r'attention|attn', 'conv': r'conv', 'cdist': r'dist', 'matmul': r'bmm'}


def kind_of(name: str) -> str:
    """Returns ``attention``, ``conv``, ``cdist``, ``matmul`` (a batched product) or ``linear``."""
    return next((kind for kind, words in _KINDS.items() if re.search(words, name)), 'linear')


def name_of(kernel: Any) -> str:
    """Returns the name of an operator, without the namespace aten; ``higher_order::…`` of one of higher order."""
    name = getattr(kernel, '_qualified_op_name', None) or f'higher_order::{kernel.name()}'
    return name.removeprefix('aten::')


#: Kernels that move, make or look at data and compute nothing; views are told by their schema.
FREE = frozenset(
    (
        '_to_copy clone copy copy_ contiguous empty empty_like empty_strided new_empty new_empty_strided zeros '
        'zeros_like new_zeros ones ones_like new_ones full full_like new_full fill_ zero_ arange scalar_tensor '
        'lift_fresh cat stack lift_fresh_copy constant_pad_nd repeat _local_scalar_dense _unsafe_view '
        '_reshape_alias detach alias eye linspace '
    ).split()
)

#: Words of a kernel's name that tell of products, if the table above does not know it.
_PRODUCTS = re.compile(
    r'(\w*(mm|gemm|gemv|matmul|matvec)|mv|addmv|v?dot|einsum|linear|trilinear|bilinear|linalg|'
    r'\w*(conv|convolution|deconv)(\dd)?|attention|attn|mha|sdpa|sdp|flash|flashattn|\w*rnn|lstm|gru|'
    r'[cp]dist|correlation|carafe|withk|dcn(v\d)?|lu|qr|svd|cholesky|inverse|solve|lstsq|ormqr|geqrf|matrix)'
)
#: Except these: they resample, take a norm, or prepare or look at the work of another kernel.
_NO_PRODUCTS = re.compile(r'.*(upsample|interpolate|norm|cross|check_errors|choice|prepack|unpack|im2col|col2im)')


def looks_like_a_product(name: str) -> bool:
    """Whether a kernel that has no formula multiplies matrices or attends, by its name, such as ``xformers::sdpa``."""
    space, _, name = name.rpartition('::')
    if _NO_PRODUCTS.match(name):
        return False
    # What a higher order operator, such as a compiled region, does inside is not to be seen.
    return space == 'higher_order' or any(_PRODUCTS.fullmatch(word) for word in re.split(r'_+', name))


def compiled_operators() -> Iterator[tuple[Any, str, str]]:
    """Functions that work where torch's dispatcher does not see it, as (module, attribute, kernel name).

    They are those of mmcv's compiled module, or of its stand-in, and mmcv's deformable attention in plain torch, which
    takes the place of the compiled one on the CPU.
    """
    ext = sys.modules.get('mmcv._ext')
    for name in dir(ext) if ext else ():
        if not name.startswith(('_', 'get_')) and inspect.isroutine(getattr(ext, name)):
            yield ext, name, f'mmcv::{name}'
    plain = sys.modules.get('mmcv.ops.multi_scale_deform_attn')
    if plain:
        yield plain, 'multi_scale_deformable_attn_pytorch', 'mmcv::ms_deform_attn_forward'
