"""What each kernel costs in multiply-adds; see :data:`CONVENTION` for what counts and what does not."""

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


def _convolution(args: tuple, out: Tensor) -> int:
    """Each weight meets each output position, or each input position when transposed; groups are in the weight."""
    positions = args[0] if args[6] else out
    return positions.shape[0] * args[1].numel() * prod(positions.shape[2:])


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


def _self_attention_layer(args: tuple, out: Any) -> int:
    """``nn.MultiheadAttention``'s one kernel, on ``(B, L, C)``: four projections and both products."""
    q, k = args[:2]
    batch, length, dim = q.shape
    keys = k.shape[1]
    return batch * (2 * length * dim**2 + 2 * keys * dim**2 + 2 * length * keys * dim)


def _encoder_layer(args: tuple, out: Any) -> int:
    """``nn.TransformerEncoderLayer``'s one kernel: attention and the two products of the MLP, weight ``(H, C)``."""
    x, first = args[0], args[14]
    return _self_attention_layer((x, x), out) + 2 * x.shape[0] * x.shape[1] * first.numel()


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


#: Kernel name (of the namespace aten unless said otherwise) -> (kind, formula of its arguments and its result).
FORMULAS: dict[str, tuple[str, Callable[[tuple, Any], int]]] = {
    'mm': ('linear', _mm),
    'mv': ('linear', _mm),
    'dot': ('linear', _mm),
    'vdot': ('linear', _mm),
    'addmm': ('linear', _add_mm),
    'addmv': ('linear', _add_mm),
    '_addmm_activation': ('linear', _add_mm),
    '_sparse_addmm': ('linear', _add_mm),
    '_int_mm': ('linear', _mm),
    '_scaled_mm': ('linear', _mm),
    '_scaled_mm_v2': ('linear', _mm),
    '_grouped_mm': ('linear', _grouped_mm),
    '_scaled_grouped_mm': ('linear', _grouped_mm),
    '_weight_int8pack_mm': ('linear', _packed_mm),
    '_weight_int4pack_mm': ('linear', _packed_mm),
    '_weight_int4pack_mm_for_cpu': ('linear', _packed_mm),
    '_trilinear': ('linear', _trilinear),
    'bmm': ('matmul', _mm),
    'baddbmm': ('matmul', _add_mm),
    'addbmm': ('matmul', _add_mm),
    'convolution': ('conv', _convolution),
    '_convolution': ('conv', _convolution),
    'convolution_overrideable': ('conv', _convolution),
    'torchvision::deform_conv2d': ('conv', lambda args, out: _sampled_convolution(args[0], args[1], out)),
    'mmcv::deform_conv_forward': ('conv', _deformable_convolution),
    'mmcv::modulated_deform_conv_forward': ('conv', _modulated_convolution),
    '_scaled_dot_product_flash_attention': ('attention', _attention),
    '_scaled_dot_product_flash_attention_for_cpu': ('attention', _attention),
    '_scaled_dot_product_efficient_attention': ('attention', _attention),
    '_scaled_dot_product_cudnn_attention': ('attention', _attention),
    '_scaled_dot_product_fused_attention_overrideable': ('attention', _attention),
    'higher_order::flex_attention': ('attention', _attention),
    '_native_multi_head_attention': ('attention', _self_attention_layer),
    '_transformer_encoder_layer_fwd': ('attention', _encoder_layer),
    'torch_attn::_varlen_attn': ('attention', _varlen_attention),
    'mmcv::ms_deform_attn_forward': ('attention', _deformable_attention),
    '_cdist_forward': ('cdist', _cdist),
    '_euclidean_dist': ('cdist', _cdist),
}

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
