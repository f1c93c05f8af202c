"""Attention kernels; no other file calls them.

Dense attention is torch's fused ``scaled_dot_product_attention``, with an optional bias of the scores (relative
positions) and an optional bias of each key (ToMe's log of the size). Ragged attention runs on packed tokens by one of
three backends that give the same: ``varlen`` (CUDA, half precision), ``padded`` (fused kernel with a mask) and ``loop``
(one call for each image, the reference).
"""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .packing import Packing
from .rotary import Rotation

varlen_attn: Any
try:
    from torch.nn.attention import varlen
except ImportError:
    varlen_attn = None
else:
    # torch 2.10 has it, but without a scale
    varlen_attn = varlen.varlen_attn if 'scale' in inspect.signature(varlen.varlen_attn).parameters else None

RAGGED_BACKENDS = ('auto', 'varlen', 'padded', 'loop')


def _key_bias_as_channels(q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor, scale: float):
    """Moves a bias of each key into extra channels of q and k: the flash kernel takes no mask.

    ``q' = [q, 1/scale, 1/scale, 0…]`` and ``k' = [k, hi, lo, 0…]`` give ``scale·q'·k' = scale·q·k + hi + lo``. The bias
    is split in two because one half-precision number would round it; eight channels keep the kernel's alignment.
    """
    hi = key_bias.to(k.dtype)
    lo = (key_bias - hi.to(key_bias.dtype)).to(k.dtype)
    zeros = torch.zeros_like(hi)
    extra_k = torch.stack([hi, lo] + [zeros] * 6, dim=-1)
    extra_q = torch.cat([q.new_full((2,), 1 / scale), q.new_zeros(6)]).expand(*q.shape[:-1], 8)
    return torch.cat([q, extra_q], -1), torch.cat([k, extra_k.expand(*k.shape[:-1], 8)], -1), F.pad(v, (0, 8))


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    key_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    channels: bool | None = None,
) -> Tensor:
    """Computes softmax attention over all tokens, by the fused kernel.

    Args:
        q (Tensor): Queries ``(B, heads, L, d)``.
        k (Tensor): Keys ``(B, heads, S, d)``.
        v (Tensor): Values ``(B, heads, S, d')``.
        scale (float, optional): Factor of ``q·k``; ``d ** -0.5`` if None.
        bias (Tensor, optional): Added to the scores, broadcastable to ``(B, heads, L, S)``.
        key_bias (Tensor, optional): Added to the scores of each key, ``(B, S)``, fp32; ToMe's proportional attention
            (arXiv 2210.09461, eq. 1) is ``log`` of the token sizes.
        dropout_p (float): Dropout of the attention weights. Defaults to 0.
        channels (bool, optional): Carry ``key_bias`` in extra channels instead of a mask. By default only on CUDA,
            where the flash kernel does not run with a mask.

    Returns:
        Tensor: ``(B, heads, L, d')``.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    width = v.shape[-1]
    if q.is_cpu and width < q.shape[-1]:  # the fused kernel of CPUs takes heads of one width only
        v = F.pad(v, (0, q.shape[-1] - width))
    if key_bias is not None:
        if (q.is_cuda if channels is None else channels) and bias is None:
            q, k, v = _key_bias_as_channels(q, k, v, key_bias[:, None], scale)
        else:
            mask = key_bias[:, None, None, :].to(q.dtype)
            bias = mask.expand(-1, 1, q.shape[2], -1) if bias is None else bias + mask
    if bias is not None:
        bias = bias.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p, scale=scale)[..., :width]


def ragged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | Packing,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    key_bias: Tensor | None = None,
    dropout_p: float = 0.0,
    backend: str = 'auto',
) -> Tensor:
    """Computes softmax attention inside each image of a packed batch, whose token counts may differ.

    Args:
        q (Tensor): Packed queries ``(ΣL, heads, d)``; or K queries of each image that are not tokens,
            ``(B, heads, K, d)``. Their output is zero for an image without tokens.
        k (Tensor): Packed keys ``(ΣL, heads, d)``.
        v (Tensor): Packed values ``(ΣL, heads, d')``; varlen needs ``d' = d``.
        lengths (Tensor | Packing): Tokens of each image ``(B,)``, int64, summing to ΣL. A packing saves a GPU→CPU
            sync, since it knows them already.
        scale (float, optional): Factor of ``q·k``; ``d ** -0.5`` if None.
        bias (Tensor, optional): Added to the scores between the rows of each image,
            ``(B or 1, heads or 1, longest, longest)`` with the longest image of the batch; what lies beyond an image's
            own rows is not read. For packed queries.
        key_bias (Tensor, optional): Added to the scores of each key ``(ΣL,)``.
        dropout_p (float): Dropout of the attention weights. Defaults to 0.
        backend (str): ``varlen``, ``padded``, ``loop`` or ``auto``. The last takes the dense kernel if all images have
            one length; else varlen where it can run; else padded on CUDA, where one launch is cheaper than many, and
            loop on the CPU, where nothing is then spent on padding.

    Returns:
        Tensor: In the shape of ``q``, with the width of ``v``.

    Raises:
        ValueError: For an unknown backend, or ``varlen`` where it cannot run.
    """
    if backend not in RAGGED_BACKENDS:
        raise ValueError(f"backend='{backend}' is not an attention backend; choose one of {RAGGED_BACKENDS}.")
    can_varlen = varlen_attn is not None and q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and not dropout_p
    can_varlen = can_varlen and bias is None and q.shape[-1] == v.shape[-1] <= 256  # the flash kernel's limits
    if backend == 'varlen' and not can_varlen:
        raise ValueError(
            "backend='varlen' needs torch >= 2.11, CUDA, fp16 or bf16, no dropout, no position bias, and heads of one "
            "width up to 256; use 'padded'."
        )
    packing = Packing.of(lengths)
    if backend == 'auto' and packing.is_even and len(packing):
        return _even(q, k, v, packing, scale, bias, key_bias, dropout_p)
    if backend == 'auto':
        backend = 'varlen' if can_varlen else 'padded' if q.is_cuda else 'loop'
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _RAGGED[backend](q, k, v, packing, scale, bias, key_bias, dropout_p)


def _even(q, k, v, packing, scale, bias, key_bias, dropout_p):
    shape = (len(packing), packing.longest)
    packed = q.dim() == 3
    if packed:
        q = q.unflatten(0, shape).transpose(1, 2)
    k, v = (t.unflatten(0, shape).transpose(1, 2) for t in (k, v))
    key_bias = None if key_bias is None else key_bias.unflatten(0, shape)
    out = dense_attention(q, k, v, scale=scale, bias=bias, key_bias=key_bias, dropout_p=dropout_p)
    return out.transpose(1, 2).flatten(0, 1) if packed else out


def _varlen(q, k, v, packing, scale, bias, key_bias, dropout_p):
    width = v.shape[-1]
    if key_bias is not None:
        q, k, v = _key_bias_as_channels(q, k, v, key_bias[:, None], scale)
    ends, longest = packing.ends.to(torch.int32), packing.longest
    if q.dim() == 3:
        return varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale)[..., :width]
    batch, _, number, _ = q.shape
    ends_q = torch.arange(batch + 1, device=q.device, dtype=torch.int32) * number
    out = varlen_attn(q.transpose(1, 2).flatten(0, 1), k, v, ends_q, ends, number, longest, scale=scale)
    return out.unflatten(0, (batch, number)).transpose(1, 2)[..., :width]


def _padded(q, k, v, packing, scale, bias, key_bias, dropout_p):
    mask = torch.zeros(packing.valid.shape, device=q.device, dtype=q.dtype)
    mask = mask.masked_fill(~packing.valid, torch.finfo(q.dtype).min)
    if key_bias is not None:
        mask = mask + packing.pad(key_bias.to(q.dtype))
    packed = q.dim() == 3
    if packed:
        q = packing.pad(q).transpose(1, 2)
    k, v = (packing.pad(t).transpose(1, 2) for t in (k, v))
    mask = mask[:, None, None, :].expand(-1, 1, q.shape[2], -1)
    if bias is not None:
        mask = mask + bias.to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, scale=scale)
    return packing.unpad(out.transpose(1, 2)) if packed else out


def _loop(q, k, v, packing, scale, bias, key_bias, dropout_p):
    packed = q.dim() == 3
    number = len(packing)
    biases = [None] * number if bias is None else bias.expand(number, -1, -1, -1)
    key_biases = [None] * number if key_bias is None else key_bias.split(packing.sizes)
    outs = []
    for queries, keys, values, pairs, weights in zip(
        q.split(packing.sizes) if packed else q, k.split(packing.sizes), v.split(packing.sizes), biases, key_biases
    ):
        queries = queries.transpose(0, 1) if packed else queries
        out = dense_attention(
            queries[None],
            keys.transpose(0, 1)[None],
            values.transpose(0, 1)[None],
            scale=scale,
            bias=None if pairs is None else pairs[None, :, : len(keys), : len(keys)],
            key_bias=None if weights is None else weights[None],
            dropout_p=dropout_p,
        )[0]
        outs.append(out.transpose(0, 1) if packed else out)
    return torch.cat(outs) if packed else torch.stack(outs)


_RAGGED = dict(varlen=_varlen, padded=_padded, loop=_loop)


def attention_scores(q: Tensor, k: Tensor, num_heads: int, lengths: Tensor | Packing | None = None) -> Tensor:
    """Returns the attention scores before the softmax, averaged over heads.

    ``mean_h q_h·k_h / √d`` is one product over all channels, so no tensor with a head dimension is made.

    Args:
        q (Tensor): Queries ``(B, K, heads·d)``.
        k (Tensor): Keys ``(B, N, heads·d)``, or packed ``(ΣL, heads·d)`` when ``lengths`` is given.
        num_heads (int): Attention heads.
        lengths (Tensor | Packing, optional): Keys of each image ``(B,)`` of a packed batch.

    Returns:
        Tensor: ``(B, N, K)``, or packed ``(ΣL, K)``.
    """
    q = q * (num_heads * (q.shape[-1] / num_heads) ** 0.5) ** -1
    if lengths is None:
        return k @ q.transpose(1, 2)
    packing = Packing.of(lengths)
    return packing.unpad(packing.pad(k) @ q.transpose(1, 2))


def self_attention(
    qkv: Tensor,
    num_heads: int,
    *,
    lengths: Tensor | Packing | None = None,
    rotate: Rotation | None = None,
    scale: float | None = None,
    bias: Tensor | None = None,
    key_bias: Tensor | None = None,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Computes self-attention from the joint projection, dense or ragged; every host calls it.

    Args:
        qkv (Tensor): q, k and v one after the other, each head by head, ``(B, L, 3·C)``, or packed ``(ΣL, 3·C)`` when
            ``lengths`` is given.
        num_heads (int): Attention heads.
        lengths (Tensor | Packing, optional): Tokens of each image ``(B,)`` of a packed batch.
        rotate (Rotation, optional): Rotary positions, one row for each patch token. Prefix tokens are not rotated.
        scale (float, optional): Factor of ``q·k``; ``d ** -0.5`` if None.
        bias (Tensor, optional): Added to the scores, broadcastable to ``(B, heads, L, L)``; of a packed batch as for
            :func:`ragged_attention`.
        key_bias (Tensor, optional): Added to the scores of each key, ``(B, L)``, packed ``(ΣL,)``, fp32.
        dropout_p (float): Dropout of the attention weights. Defaults to 0.

    Returns:
        tuple[Tensor, Tensor]: The attended values ``(…, C)`` before the output projection; and the keys
        ``(…, heads, d)`` before rotation, by which ToMe compares tokens.

    Raises:
        ValueError: If ``rotate`` has more rows than there are tokens.
    """
    if lengths is not None:
        lengths = Packing.of(lengths)
    q, keys, v = qkv.unflatten(-1, (3, num_heads, -1)).unbind(-3)
    k = keys
    if rotate is not None:
        rotate = rotate.with_prefix(qkv.shape[-2], lengths)
        q, k = rotate(q), rotate(k)
    if lengths is None:
        out = dense_attention(
            *(t.transpose(1, 2) for t in (q, k, v)), scale=scale, bias=bias, key_bias=key_bias, dropout_p=dropout_p
        ).transpose(1, 2)
    else:
        out = ragged_attention(q, k, v, lengths, scale=scale, bias=bias, key_bias=key_bias, dropout_p=dropout_p)
    return out.flatten(-2), keys
