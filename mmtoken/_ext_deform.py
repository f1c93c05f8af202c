"""Deformable convolutions in plain torch, with the signatures of the compiled ``mmcv._ext``; see :mod:`._ext_standin`.

At each output pixel the kernel's tap ``(i, j)`` reads the map at its usual place plus an offset, bilinearly, with zeros
outside (arXiv 1703.06211, eq. 2); the modulated kind (arXiv 1811.11168, eq. 1) weighs what it reads by a mask.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class _Geometry(NamedTuple):
    """Pairs are (height, width)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    offset_groups: int


def _convolve(x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, shape: _Geometry) -> Tensor:
    """Returns the convolution ``(B, O, h, w)``.

    Args:
        x: ``(B, C, H, W)``.
        weight: ``(O, C / groups, kh, kw)``.
        offset: ``(B, offset_groups · kh · kw · 2, h, w)``, rows then columns, in pixels.
        mask: ``(B, offset_groups · kh · kw, h, w)``; None weighs all alike.
        shape: The rest.
    """
    batch, channels, height, width = x.shape
    (kh, kw), (out_h, out_w) = weight.shape[2:], offset.shape[2:]
    parts, taps = shape.offset_groups, kh * kw
    moved = offset.view(batch * parts, taps, 2, out_h, out_w)
    places = []
    for axis, kernel, out in ((0, kh, out_h), (1, kw, out_w)):
        tap = torch.arange(kernel, device=x.device) * shape.dilation[axis]
        tap = tap[:, None].expand(kh, kw) if axis == 0 else tap.expand(kh, kw)
        start = torch.arange(out, device=x.device) * shape.stride[axis] - shape.padding[axis]
        start = start[:, None] if axis == 0 else start[None]
        places.append(moved[:, :, axis] + tap.reshape(1, taps, 1, 1) + start)
    y, at = places
    grid = torch.stack([(2 * at + 1) / width - 1, (2 * y + 1) / height - 1], -1).flatten(1, 2)
    maps = x.reshape(batch * parts, channels // parts, height, width)
    columns = F.grid_sample(maps, grid, mode='bilinear', padding_mode='zeros', align_corners=False)
    columns = columns.view(batch * parts, channels // parts, taps, out_h * out_w)
    if mask is not None:
        columns = columns * mask.view(batch * parts, 1, taps, out_h * out_w)
    columns = columns.reshape(batch, shape.groups, channels // shape.groups * taps, out_h * out_w)
    kernels = weight.reshape(shape.groups, -1, weight.shape[1] * taps)
    return (kernels @ columns).view(batch, len(weight), out_h, out_w)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _run(tensors: dict[str, Tensor], shape: _Geometry) -> Tensor:
    """The convolution in at least fp32, whatever autocast wants."""
    with torch.autocast(tensors['x'].device.type, enabled=False):
        wide = {name: _wide(value) for name, value in tensors.items()}
        bias = wide.pop('bias', None)
        out = _convolve(wide['x'], wide['weight'], wide['offset'], wide.get('mask'), shape)
        return out if bias is None else out + bias.view(1, -1, 1, 1)


def _gradients(grad_output: Tensor, tensors: dict[str, Tensor], shape: _Geometry) -> dict[str, Tensor]:
    """Gradients with respect to each of the tensors."""
    with torch.enable_grad():
        leaves = {name: _wide(value.detach()).requires_grad_() for name, value in tensors.items()}
        out = _run(leaves, shape)
        return dict(zip(leaves, torch.autograd.grad(out, list(leaves.values()), grad_output.to(out))))


def _plain(kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group, **rest) -> _Geometry:
    return _Geometry((dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)


def deform_conv_forward(input, weight, offset, output, columns, ones, **geometry) -> None:
    """Deformable convolution into ``output`` ``(B, O, h, w)``."""
    output.copy_(_run(dict(x=input, weight=weight, offset=offset), _plain(**geometry)))


def deform_conv_backward_input(
    input, offset, grad_output, grad_input, grad_offset, weight, columns, **geometry
) -> None:
    """Gradients with respect to the map and the offsets, into ``grad_input`` and ``grad_offset``."""
    grads = _gradients(grad_output, dict(x=input, weight=weight, offset=offset), _plain(**geometry))
    grad_input.copy_(grads['x'])
    grad_offset.copy_(grads['offset'])


def deform_conv_backward_parameters(
    input, offset, grad_output, grad_weight, columns, ones, scale=1, **geometry
) -> None:
    """Gradient with respect to the weight, times ``scale``, added to ``grad_weight``."""
    # the weight's value is of no account
    tensors = dict(x=input, weight=torch.zeros_like(grad_weight), offset=offset)
    grad_weight.add_(_gradients(grad_output, tensors, _plain(**geometry))['weight'].to(grad_weight), alpha=scale)


def _modulated(stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group, **rest) -> _Geometry:
    return _Geometry((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group)


def modulated_deform_conv_forward(
    input, weight, bias, ones, offset, mask, output, columns, *, with_bias: bool, **geometry
) -> None:
    """Modulated deformable convolution into ``output`` ``(B, O, h, w)``."""
    tensors = dict(x=input, weight=weight, offset=offset, mask=mask)
    if with_bias:
        tensors['bias'] = bias
    output.copy_(_run(tensors, _modulated(**geometry)))


def modulated_deform_conv_backward(
    input,
    weight,
    bias,
    ones,
    offset,
    mask,
    columns,
    grad_input,
    grad_weight,
    grad_bias,
    grad_offset,
    grad_mask,
    grad_output,
    *,
    with_bias: bool,
    **geometry,
) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`, into the ``grad_*`` buffers."""
    tensors = dict(x=input, weight=weight, offset=offset, mask=mask)
    buffers = dict(x=grad_input, weight=grad_weight, offset=grad_offset, mask=grad_mask)
    if with_bias:
        tensors['bias'], buffers['bias'] = bias, grad_bias
    for name, grad in _gradients(grad_output, tensors, _modulated(**geometry)).items():
        buffers[name].copy_(grad)
